/* What each initiator opened lately, for the optional engine `fast`.
 *
 * The rules are those of device_agent/flows/windows.py; this file holds them a second time for speed and is tested to give
 * the same features, bit by bit. A responder or port of an initiator is one node, whatever it is remembered for: it is on
 * up to four lists of its initiator, one for each of the two windows and of the two hours, and goes when it is on none.
 * Python brings the table of weights, so that both count with the same integers. */
#include "windows.h"

enum { PEERS, PORTS, N_KINDS };
enum { HOURS = 2, N_LISTS = 4, ABSENT = -2 };       /* lists 0 and 1 are windows, 2 and 3 hours */
#define UNIT 4294967296.0                           /* 1 in fixed point */

typedef struct {
    uint64_t word[2];                               /* address or port */
    uint32_t hash;
    int32_t owner;                                  /* slot of the initiator, times N_KINDS, and the kind */
    int32_t count[2], next[N_LISTS];                /* flows of a window that count; what a list goes on with, or ABSENT */
} value_t;

typedef struct { int32_t first, last, n; } list_t;

typedef struct {                                    /* windows.Distinct, and the known ones */
    list_t lists[N_LISTS];
    int64_t counted[2], both, weight;
} distinct_t;

typedef struct {                                    /* windows.Initiator; `now` and `hour` say which of two is current */
    distinct_t distinct[N_KINDS];
    int64_t window, flows[2], failed[2], since[2], fresh;
    uint8_t now, hour;
} initiator_t;

struct windows {
    table_t table;
    initiator_t *initiators;
    value_t *values;
    int32_t *index, unused, n_used;                 /* places of values + 1, 0 for none; a chain of given back ones */
    uint32_t mask;
    int32_t max_initiators, max_values, saturation;
    int64_t most_counted, window_us, windows_an_hour, stored, evicted, wanted, n_weights;
    uint64_t seed;
    const int64_t *weights;
};

/* ---- values ---- */

static uint32_t value_hash(const windows_t *w, int32_t owner, const uint64_t *word) {
    uint64_t h = mix(word[1] + w->seed);
    if (word[0]) h = mix(h + word[0]);
    return (uint32_t)mix(h + (uint64_t)owner);
}

static int32_t find_value(const windows_t *w, int32_t owner, const uint64_t *word, uint32_t h) {
    for (uint32_t i = h & w->mask; w->index[i]; i = (i + 1) & w->mask) {
        const value_t *v = &w->values[w->index[i] - 1];
        if (v->hash == h && v->owner == owner && v->word[1] == word[1] && v->word[0] == word[0]) return w->index[i] - 1;
    }
    return NIL;
}

static int32_t new_value(windows_t *w, int32_t owner, const uint64_t *word, uint32_t h) {
    int32_t s = w->unused;
    if (s == NIL) s = w->n_used++;
    else w->unused = w->values[s].next[0];
    w->values[s] = (value_t){.word = {word[0], word[1]}, .hash = h, .owner = owner,
                             .next = {ABSENT, ABSENT, ABSENT, ABSENT}};
    uint32_t i = h & w->mask;
    while (w->index[i]) i = (i + 1) & w->mask;
    w->index[i] = s + 1;
    return s;
}

static void drop_value(windows_t *w, int32_t s) {
    uint32_t i = w->values[s].hash & w->mask;
    while (w->index[i] != s + 1) i = (i + 1) & w->mask;
    for (uint32_t j = (i + 1) & w->mask; w->index[j]; j = (j + 1) & w->mask) {
        uint32_t home = w->values[w->index[j] - 1].hash & w->mask;
        if (((j - home) & w->mask) >= ((j - i) & w->mask)) { w->index[i] = w->index[j]; i = j; }
    }
    w->index[i] = 0;
    w->values[s].next[0] = w->unused;
    w->unused = s;
}

static void put(windows_t *w, distinct_t *d, int which, int32_t s) {
    list_t *list = &d->lists[which];
    if (list->n++) w->values[list->last].next[which] = s; else list->first = s;
    list->last = s;
    w->values[s].next[which] = NIL;
    w->stored++;
}

static void empty(windows_t *w, distinct_t *d, int which) {
    list_t *list = &d->lists[which];
    for (int32_t s = list->first, next; s != NIL; s = next) {
        value_t *v = &w->values[s];
        next = v->next[which];
        v->next[which] = ABSENT;
        if (which < HOURS) v->count[which] = 0;
        if (v->next[0] == ABSENT && v->next[1] == ABSENT && v->next[2] == ABSENT && v->next[3] == ABSENT) drop_value(w, s);
    }
    w->stored -= list->n;
    *list = (list_t){NIL, NIL, 0};
}

static int is_known(const value_t *v) { return v->next[HOURS] != ABSENT || v->next[HOURS + 1] != ABSENT; }

/* ---- initiators ---- */

static void begin(initiator_t *i, int64_t window, int64_t number) {
    memset(i, 0, sizeof *i);
    for (int kind = 0; kind < N_KINDS; kind++)
        for (int l = 0; l < N_LISTS; l++) i->distinct[kind].lists[l] = (list_t){NIL, NIL, 0};
    i->window = window;
    i->since[0] = i->since[1] = number;
}

/* Move on to `window`, in which flow `number` is the first: Initiator.turn. */
static void turn(windows_t *w, initiator_t *i, int64_t window, int64_t number) {
    distinct_t *peers = &i->distinct[PEERS];
    for (int n = window == i->window + 1 ? 1 : 2; n; n--) {
        int last = !i->now, known = HOURS + i->hour;
        for (int32_t s = peers->lists[last].first; s != NIL && peers->lists[known].n < w->saturation;
             s = w->values[s].next[last])
            if (w->values[s].next[known] == ABSENT) put(w, peers, known, s);
        for (int kind = 0; kind < N_KINDS; kind++) {
            empty(w, &i->distinct[kind], last);
            i->distinct[kind].counted[last] = 0;
        }
        i->flows[last] = i->failed[last] = 0;
        i->since[last] = number;
        i->now = (uint8_t)last;
    }
    int64_t hours = window / w->windows_an_hour - i->window / w->windows_an_hour;
    if (hours) {
        empty(w, peers, HOURS + !i->hour);
        if (hours > 1) empty(w, peers, HOURS + i->hour);
        i->hour = !i->hour;
    }
    i->window = window;
    i->fresh = 0;
    for (int kind = 0, last = !i->now; kind < N_KINDS; kind++) {
        distinct_t *d = &i->distinct[kind];
        d->both = d->lists[last].n;
        d->weight = 0;
        for (int32_t s = d->lists[last].first; s != NIL; s = w->values[s].next[last]) {
            d->weight += w->weights[w->values[s].count[last]];
            i->fresh += kind == PEERS && !is_known(&w->values[s]);
        }
    }
}

/* Note a value of a flow in the current window: Distinct.add. */
static void add(windows_t *w, int32_t slot, int kind, uint64_t high, uint64_t low) {
    initiator_t *i = &w->initiators[slot];
    distinct_t *d = &i->distinct[kind];
    const uint64_t word[2] = {high, low};
    int32_t owner = slot * N_KINDS + kind;
    uint32_t h = value_hash(w, owner, word);
    int32_t s = find_value(w, owner, word, h);
    int now = i->now;
    if (s == NIL || w->values[s].next[now] == ABSENT) {
        if (d->lists[now].n >= w->saturation) return;
        if (s == NIL) s = new_value(w, owner, word, h);
        if (w->values[s].next[!now] == ABSENT) {
            d->both++;
            i->fresh += kind == PEERS && !is_known(&w->values[s]);
        }
        put(w, d, now, s);
    }
    if (d->counted[now] >= w->most_counted) return;
    int32_t *count = w->values[s].count, of_value = count[0] + count[1];
    d->weight += w->weights[of_value + 1] - w->weights[of_value];
    count[now]++;
    d->counted[now]++;
    w->wanted = MAX(w->wanted, d->counted[0] + d->counted[1] + 1);
}

static double entropy_bits(const windows_t *w, const distinct_t *d) {
    if (d->both < 2) return 0;
    int64_t n = d->counted[0] + d->counted[1];
    return (double)(w->weights[n] - d->weight) / ((double)n * UNIT);
}

static void forget(windows_t *w, int32_t slot) {
    initiator_t *i = &w->initiators[slot];
    for (int kind = 0; kind < N_KINDS; kind++)
        for (int l = 0; l < N_LISTS; l++) empty(w, &i->distinct[kind], l);
    delete(&w->table, slot);
}

/* ---- what the meter calls ---- */

void kw_windows_free(windows_t *w) {
    if (!w) return;
    table_free(&w->table);
    free(w->initiators); free(w->values); free(w->index);
    free(w);
}

/* Windows of `window_us`, with the bounds of windows.py and the first weights; NULL if there is no memory. */
windows_t *kw_windows_new(int32_t max_initiators, int32_t max_values, int32_t saturation, int64_t most_counted,
                          int64_t window_us, uint64_t seed, const int64_t *weights, int64_t n_weights) {
    windows_t *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    /* A flow comes first and makes room afterwards, and the last initiator keeps all it has: six lists. */
    int32_t most_values = MAX(max_values, 6 * saturation) + 2;
    uint32_t size = 16;
    while (size < 2u * (uint32_t)most_values) size *= 2;
    w->mask = size - 1;
    w->max_initiators = max_initiators; w->max_values = max_values; w->saturation = saturation;
    w->most_counted = most_counted; w->window_us = window_us; w->windows_an_hour = 3600 * SECOND / window_us;
    w->seed = seed; w->weights = weights; w->n_weights = n_weights; w->wanted = 1; w->unused = NIL;
    w->initiators = malloc(sizeof(initiator_t) * ((size_t)max_initiators + 1));
    w->values = malloc(sizeof(value_t) * (size_t)most_values);
    w->index = calloc(size, sizeof *w->index);
    if (table_new(&w->table, max_initiators + 1) && w->initiators && w->values && w->index) return w;
    kw_windows_free(w);
    return NULL;
}

/* Note a new flow and fill in how its initiator stands with it; return the slot of the initiator. */
int32_t kw_windows_open(windows_t *w, const keyed_t *flow, int swapped, int64_t clock, int64_t number, double *opened) {
    int from = swapped ? 2 : 0, to = 2 - from, v6 = flow->v6;
    keyed_t key = {.k0 = v6 ? 0 : swapped ? flow->k0 & UINT32_MAX : flow->k0 >> 32, .v6 = flow->v6};
    if (v6) memcpy(key.x, flow->x + from, 2 * sizeof *key.x);
    uint64_t responder = swapped ? flow->k0 >> 32 : flow->k0 & UINT32_MAX;
    uint64_t port = swapped ? flow->k1 >> 48 : flow->k1 >> 32 & 0xFFFF;
    uint64_t h = hash(w->seed, &key);
    int64_t window = clock / w->window_us;
    int32_t slot = find(&w->table, &key, h);
    if (slot == NIL) {
        slot = insert(&w->table, &key, h);
        begin(&w->initiators[slot], window, number);
    } else {
        if (w->initiators[slot].window != window) turn(w, &w->initiators[slot], window, number);
        if (w->table.newest != slot) {
            unlink_node(&w->table, slot);
            append(&w->table, slot);
        }
    }
    initiator_t *i = &w->initiators[slot];
    i->flows[i->now]++;
    i->failed[i->now]++;
    add(w, slot, PEERS, v6 ? flow->x[to] : 0, v6 ? flow->x[to + 1] : responder);
    if (port) add(w, slot, PORTS, 0, port);
    while (w->table.n > 1 && (w->table.n > w->max_initiators || w->stored > w->max_values)) {
        forget(w, w->table.oldest);
        w->evicted++;
    }
    opened[0] = (double)(i->flows[0] + i->flows[1]);
    opened[1] = (double)MIN(w->saturation, i->distinct[PEERS].both);
    opened[2] = (double)MIN(w->saturation, i->distinct[PORTS].both);
    opened[3] = (double)(i->failed[0] + i->failed[1] - 1);
    opened[4] = (double)MIN(w->saturation, i->fresh);
    opened[5] = entropy_bits(w, &i->distinct[PEERS]);
    opened[6] = entropy_bits(w, &i->distinct[PORTS]);
    return slot;
}

/* Note the answer to a flow of the initiator that was in `slot`. Whoever has it since then has later flows alone, and what
 * an empty slot says does not matter. */
void kw_windows_answer(windows_t *w, int32_t slot, int64_t number) {
    initiator_t *i = &w->initiators[slot];
    if (number >= i->since[i->now]) i->failed[i->now]--;
    else if (number >= i->since[!i->now]) i->failed[!i->now]--;
}

void kw_windows_clear(windows_t *w) {
    while (w->table.n) forget(w, w->table.oldest);
}

/* The index that the table of weights must reach before the next flow; 0 if it does. */
int64_t kw_windows_wanted(const windows_t *w) { return w->wanted < w->n_weights ? 0 : w->wanted; }

void kw_windows_weights(windows_t *w, const int64_t *weights, int64_t n) {
    w->weights = weights;
    w->n_weights = n;
}

int64_t kw_windows_stored(const windows_t *w) { return w->stored; }
int64_t kw_windows_evicted(const windows_t *w) { return w->evicted; }
