/* The flow meter, packet by packet, for the optional engine `fast`.
 *
 * The rules are those of device_agent/flows/meter.py, state.py and tcp.py; this file holds them a second time for speed and
 * is tested to give the same records. Python gives the memory for records. Headers are read in packets.c, records made in
 * records.c, windows of initiators kept in windows.c. Application payloads are read by Python: kw_feed() stops at one that
 * heads.c does not know, and kw_tell() brings what it is.
 *
 * Half of the time a table this large makes the processor wait for memory. So packets are taken in blocks: headers of all of
 * them are read first, and what each of them will need is fetched meanwhile. */
#include "packets.h"
#include "flow.h"
#include "heads.h"
#include "records.h"

enum { IDLE, ACTIVE, TCP_END, EVICT, FLUSH, EARLY, N_ENDS };
enum { DONE, FULL, SELECTED, WEIGHTS };             /* why a call returned */
enum { NOTHING_TOLD = -1, MALFORMED = 1 << 30 };    /* instead of the bits of a payload */
enum { MOST_OF_A_PACKET = 4 };                      /* records that a packet makes of its own flow and by eviction */
enum { BLOCK = 16, LINE = 64 };                     /* packets; bytes of a line of the cache */
#define TRAILING (5 * SECOND)
#define CLOCK_STEP (60 * SECOND)
#define LATEST (1LL << 62)
#define HANDSHAKE_RECORD 0x16

typedef struct {
    uint8_t *kinds;                                 /* applications.KINDS; NULL without a dissector */
    uint64_t any_kind[65536 / 64];                  /* whether a port has one, in less memory */
    heads_t *heads;                                 /* NULL if every payload is to be read */
    int64_t second, left, per_s, selected[3];       /* budget; the selected packet: kind, begin and size of its payload */
    int64_t read, skipped, malformed;
    int32_t told;                                   /* what the packet to go on with is */
} applications_t;

typedef struct {
    table_t live, ended;
    flow_t *flows;
    windows_t *windows;
    uint64_t seed;
    int64_t *ended_us, idle, active, clock, next_tick, early_us;
    int32_t max_flows, early_pkts, wants_weights;
    applications_t applications;
    identity_t *identities;                         /* of records, in memory of Python; and their features */
    double *features;
    int32_t n_out, max_out;
    int64_t metered, opened, steps, ignored[N_REASONS], closed[N_ENDS];
} meter_t;

typedef struct { packet_t packet; uint64_t hash; int reason; } parsed_t;

/* ---- flows: device_agent/flows/state.py and tcp.py ---- */

static void begin(flow_t *f, int64_t now) {
    f->first = f->last = now;
    f->gap_min = UNSEEN; f->gap_max = 0; f->gap_squares = 0;
    for (int i = 0; i < 2; i++)                     /* what belongs to the connection stays */
        f->side[i] = (side_t){.top = f->side[i].top, .window = f->side[i].window, .gap_min = UNSEEN, .len_min = UINT32_MAX};
    memset(f->applications, 0, sizeof f->applications);
}

static void count(flow_t *f, const packet_t *p, int64_t now, int side) {
    side_t *s = &f->side[side];
    if (f->side[0].pkts + f->side[1].pkts) {
        int64_t gap = now - f->last;
        f->gap_min = MIN(f->gap_min, gap);
        f->gap_max = MAX(f->gap_max, gap);
        f->gap_squares += (uint64_t)gap * (uint64_t)gap;
    }
    f->last = now;
    if (s->pkts) {
        int64_t gap = now - s->last;
        s->gap_min = MIN(s->gap_min, gap);
        s->gap_max = MAX(s->gap_max, gap);
        s->gap_squares += (uint64_t)gap * (uint64_t)gap;
    } else s->first = now;
    s->last = now;
    s->len_min = MIN(s->len_min, p->ip_len);
    s->len_max = MAX(s->len_max, p->ip_len);
    s->pkts++;
    s->bytes += p->ip_len;
    s->payload_bytes += (uint64_t)p->payload;
    s->payload_pkts += p->payload != 0;
    s->len_squares += (uint64_t)p->ip_len * p->ip_len;
    s->syn_ack += (uint64_t)((p->flags & SYN) != 0) | (uint64_t)((p->flags & ACK) != 0) << 32;
    s->fin_rst += (uint64_t)((p->flags & FIN) != 0) | (uint64_t)((p->flags & RST) != 0) << 32;
    s->psh_urg += (uint64_t)((p->flags & PSH) != 0) | (uint64_t)((p->flags & URG) != 0) << 32;
}

/* Take in where the payload of a TCP segment ends: TcpState.repeats of tcp.py. */
static void note_payload(side_t *s, const packet_t *p) {
    if (!p->has_tcp || !p->payload) return;
    uint32_t end = p->seq + (uint32_t)p->payload + ((p->flags & SYN) != 0);
    uint32_t ahead = end - (uint32_t)s->top;
    if (s->top >= 0 && (ahead == 0 || ahead >= 0x80000000u)) s->retransmitted++;
    else s->top = end;
}

/* Take in the flags of a TCP packet; return whether the connection ended with it. */
static int note(flow_t *f, const packet_t *p, int forward) {
    uint8_t flags = p->flags, state = f->tcp;
    if (f->side[!forward].window < 0) f->side[!forward].window = p->window;
    if (flags & SYN) {
        if (flags & ACK) {
            state |= ANSWERED;
            if (!forward && (state & HANDSHAKE) == 1) state = (state & ~HANDSHAKE) | 2;
        } else if (forward) {
            f->isn = p->seq;
            if (!(state & HANDSHAKE)) state |= 1;
        }
    } else {
        state |= ANSWERED;
        if (flags & ACK && forward && (state & HANDSHAKE) == 2) state |= 3;
    }
    int both = (state & FIN_FORWARD) && (state & FIN_BACKWARD), ends = 0;
    if (flags & RST) ends = 1;
    else if (flags & FIN) {
        if (!both) state = forward ? state | CLOSED_FORWARD : state & ~CLOSED_FORWARD;
        state |= forward ? FIN_FORWARD : FIN_BACKWARD;
    } else ends = (flags & ACK) && both && forward != !!(state & CLOSED_FORWARD);
    f->tcp = state;
    return ends;
}

/* ---- the table of flows: device_agent/flows/meter.py ---- */

static void emit(meter_t *m, int32_t slot, int reason) {
    kw_record(&m->flows[slot], &m->live.nodes[slot].key, reason, m->identities + m->n_out,
              m->features + (size_t)m->n_out * N_FEATURES);
    m->n_out++;
    m->closed[reason]++;
}

/* Have a flow in the cache soon. */
static void fetch_flow(const meter_t *m, int32_t slot) {
    if (slot == NIL) return;
    __builtin_prefetch(&m->live.nodes[slot]);
    for (const char *p = (const char *)&m->flows[slot], *end = p + sizeof(flow_t); p < end; p += LINE) __builtin_prefetch(p);
}

static void close_flow(meter_t *m, int32_t slot, int reason) {
    emit(m, slot, reason);
    delete(&m->live, slot);
}

/* Close all flows; return whether there was room for all. */
static int close_all(meter_t *m) {
    while (m->live.n) {
        if (m->n_out >= m->max_out) return 0;
        close_flow(m, m->live.oldest, FLUSH);
    }
    while (m->ended.n) delete(&m->ended, m->ended.oldest);
    return 1;
}

/* Move the packet clock on and close what is idle at the latest whole second. */
static int advance(meter_t *m, int64_t now) {
    if (now >= m->next_tick) {
        int64_t tick = now - now % SECOND;
        while (m->live.n && m->flows[m->live.oldest].last <= tick - m->idle) {
            if (m->n_out >= m->max_out) return FULL;
            fetch_flow(m, m->live.nodes[m->live.oldest].newer);
            close_flow(m, m->live.oldest, IDLE);
        }
        while (m->ended.n && m->ended_us[m->ended.oldest] <= tick - TRAILING) delete(&m->ended, m->ended.oldest);
        m->next_tick = tick + SECOND;
        m->clock = now;
    } else if (now > m->clock) m->clock = now;
    else if (now < m->clock - CLOCK_STEP) {
        if (!close_all(m)) return FULL;
        kw_windows_clear(m->windows);
        m->steps++;
        m->clock = now;
        m->next_tick = now - now % SECOND + SECOND;
    }
    return DONE;
}

static void remember_end(meter_t *m, const keyed_t *key, uint64_t h, int64_t now) {
    int32_t e = find(&m->ended, key, h);
    if (e != NIL) delete(&m->ended, e);
    if (m->ended.n >= m->max_flows) delete(&m->ended, m->ended.oldest);
    m->ended_us[insert(&m->ended, key, h)] = now;
}

static int32_t open_flow(meter_t *m, const packet_t *p, uint64_t h, int64_t now) {
    if (m->live.n >= m->max_flows) close_flow(m, m->live.oldest, EVICT);
    int32_t slot = insert(&m->live, &p->key, h);
    flow_t *f = &m->flows[slot];
    int reverse = (p->flags & (SYN | ACK)) == (SYN | ACK) && !p->symmetric;
    f->swapped = (p->swapped ^ reverse) & 1;
    f->tcp = p->has_tcp ? HAS_TCP : 0;
    f->answered = 0;
    f->part = 0;
    f->number = m->opened++;
    f->side[0].window = f->side[1].window = -1;
    f->side[0].top = f->side[1].top = -1;
    f->isn = -1;
    begin(f, now);
    f->initiator = kw_windows_open(m->windows, &p->key, f->swapped, m->clock, f->number, f->opened);
    m->wants_weights = kw_windows_wanted(m->windows) != 0;
    return slot;
}

static int is_early(const meter_t *m, const flow_t *f) {
    return (m->early_pkts && f->side[0].pkts + f->side[1].pkts >= (uint64_t)m->early_pkts) ||
           (m->early_us && f->last - f->first >= m->early_us);
}

/* Close the flow of a packet, or cut it, if the packet comes too late for it or begins another connection. */
static int32_t cut(meter_t *m, int32_t slot, const packet_t *p, int64_t now) {
    flow_t *f = &m->flows[slot];
    int opens_tcp = (p->flags & (SYN | ACK)) == SYN;
    if (now - f->last >= m->idle) {
        close_flow(m, slot, IDLE);
        return NIL;
    }
    if (f->tcp & HAS_TCP && f->tcp & ANSWERED && opens_tcp && f->isn != (int64_t)p->seq) {
        close_flow(m, slot, TCP_END);
        return NIL;
    }
    if (now - f->first >= m->active) {
        emit(m, slot, ACTIVE);
        f->part = MIN(f->part + 1, 0xFFFF);
        begin(f, now);
    }
    return slot;
}

/* Whether a packet trails a TCP end; a SYN or five seconds make an end of that. */
static int is_trailing(meter_t *m, const packet_t *p, uint64_t h, int64_t now) {
    if (!p->has_tcp || !m->ended.n) return 0;
    int32_t e = find(&m->ended, &p->key, h);
    if (e == NIL) return 0;
    if ((p->flags & (SYN | ACK)) != SYN && now - m->ended_us[e] < TRAILING) return 1;
    delete(&m->ended, e);
    return 0;
}

static void meter_packet(meter_t *m, const packet_t *p, uint64_t h, int64_t now, uint32_t bits) {
    int32_t slot = find(&m->live, &p->key, h);
    if (slot != NIL) {
        now = MAX(now, m->flows[slot].last);
        slot = cut(m, slot, p, now);
    }
    if (slot == NIL) {
        if (is_trailing(m, p, h, now)) {
            m->ignored[AFTER_TCP_END]++;
            return;
        }
        slot = open_flow(m, p, h, now);
    } else if (m->live.newest != slot) {
        unlink_node(&m->live, slot);
        append(&m->live, slot);
    }
    m->metered++;
    flow_t *f = &m->flows[slot];
    int forward = p->symmetric || p->swapped == f->swapped;
    if (!forward && !f->answered && !(p->flags & RST)) {
        f->answered = 1;
        kw_windows_answer(m->windows, f->initiator, f->number);
    }
    int was_early = f->part || is_early(m, f);
    count(f, p, now, !forward);
    for (int i = 0; bits; i++, bits >>= 1) f->applications[i] += bits & 1;
    if (f->tcp & HAS_TCP) {
        note_payload(&f->side[!forward], p);
        if (note(f, p, forward)) {
            close_flow(m, slot, TCP_END);
            remember_end(m, &p->key, h, now);
            return;
        }
    }
    if (!was_early && is_early(m, f)) emit(m, slot, EARLY);
}

/* ---- application payloads: device_agent/flows/applications.py ---- */

static int has_kind(const applications_t *a, uint32_t port) { return a->any_kind[port / 64] >> port % 64 & 1; }

/* Whether a packet is selected for dissection: payload_of; its payload is noted in `selected`. */
static int is_selected(applications_t *a, const packet_t *p, const uint8_t *frame, int64_t cap) {
    if (!has_kind(a, p->sport) && !has_kind(a, p->dport)) return 0;
    const uint8_t *by_port = a->kinds + ((p->key.k1 & 0xFF) == 6) * 65536;
    int kind = MAX(by_port[p->sport], by_port[p->dport]);
    if (!kind) return 0;
    int64_t size = MIN(p->payload, cap - p->payload_at);
    if (size <= 0 || (kind == TLS && frame[p->payload_at] != HANDSHAKE_RECORD)) return 0;
    a->selected[0] = kind;
    a->selected[1] = p->payload_at;
    a->selected[2] = MIN(size, MAX_PAYLOAD);
    return 1;
}

/* Applications.take for one packet. */
static int within_budget(applications_t *a, int64_t clock) {
    int64_t second = clock / SECOND;
    if (second != a->second) {
        a->second = second;
        a->left = a->per_s;
    }
    if (a->left) return a->left--, 1;
    a->skipped++;
    return 0;
}

/* Return what a packet is, as far as it is to be read; UNKNOWN if Python has to read it. */
static int32_t read_payload(meter_t *m, const packet_t *p, const uint8_t *frame, int64_t cap) {
    applications_t *a = &m->applications;
    int32_t found = a->told;
    if (found == NOTHING_TOLD) {
        if (!is_selected(a, p, frame, cap) || !within_budget(a, m->clock)) return 0;
        found = a->heads ? kw_heads_find(a->heads, (int32_t)a->selected[0], frame + p->payload_at, a->selected[2]) : UNKNOWN;
        if (found == UNKNOWN) return UNKNOWN;
    }
    a->told = NOTHING_TOLD;
    a->read++;
    if (found != MALFORMED) return found;
    a->malformed++;
    return 0;
}

/* ---- what Python calls ---- */

void kw_free(meter_t *m) {
    if (!m) return;
    table_free(&m->live); table_free(&m->ended); kw_windows_free(m->windows); kw_heads_free(m->applications.heads);
    free(m->flows); free(m->ended_us); free(m->applications.kinds);
    free(m);
}

/* A meter, which frees `windows` when it is freed itself; NULL, and they are freed, if there is no memory. */
meter_t *kw_new(int64_t idle, int64_t active, int32_t max_flows, uint64_t seed, windows_t *windows) {
    meter_t *m = calloc(1, sizeof *m);
    if (!m) { kw_windows_free(windows); return NULL; }
    m->idle = idle; m->active = active; m->max_flows = max_flows; m->seed = seed; m->windows = windows;
    m->applications.told = NOTHING_TOLD;
    int ok = table_new(&m->live, max_flows) && table_new(&m->ended, max_flows);
    m->flows = aligned_alloc(_Alignof(flow_t), sizeof(flow_t) * (size_t)max_flows);
    m->ended_us = malloc(sizeof(int64_t) * (size_t)max_flows);
    if (ok && windows && m->flows && m->ended_us) return m;
    kw_free(m);
    return NULL;
}

/* Write the next records to memory with room for `room` of them; return how many were written until now. */
int32_t kw_write_to(meter_t *m, identity_t *identities, double *features, int32_t room) {
    int32_t n = m->n_out;
    m->identities = identities;
    m->features = features;
    m->max_out = room - MOST_OF_A_PACKET;
    m->n_out = 0;
    return n;
}

/* When flows get their early records; 0 for never. */
void kw_early(meter_t *m, int32_t pkts, int64_t after_us) {
    m->early_pkts = pkts;
    m->early_us = after_us;
}

/* Select packets by `kinds` (2 x 65536 bytes), `per_s` in each second; if `remember`, ask of each head once; return
 * whether there was memory for that. */
int32_t kw_select(meter_t *m, const uint8_t *kinds, int64_t per_s, int32_t remember) {
    applications_t *a = &m->applications;
    if (!(a->kinds = malloc(2 * 65536)) || (remember && !(a->heads = kw_heads_new(m->seed)))) return 0;
    memcpy(a->kinds, kinds, 2 * 65536);
    for (uint32_t port = 0; port < 65536; port++)
        a->any_kind[port / 64] |= (uint64_t)(kinds[port] || kinds[65536 + port]) << port % 64;
    a->second = -1;
    a->per_s = per_s;
    return 1;
}

/* Go on with a table of `n` weights, which reaches kw_windows_wanted(). */
void kw_weights(meter_t *m, const int64_t *weights, int64_t n) {
    kw_windows_weights(m->windows, weights, n);
    m->wants_weights = kw_windows_wanted(m->windows) != 0;
}

/* Go on with what the selected packet is: its bits, or MALFORMED. */
void kw_tell(meter_t *m, int32_t found) {
    if (m->applications.heads) kw_heads_keep(m->applications.heads, found);
    m->applications.told = found;
}

/* Read the headers of `n` packets, and have what they need in the cache soon. */
static void parse_block(const meter_t *m, parsed_t *parsed, const uint8_t *data, const int64_t *offsets, const int32_t *wire,
                        int32_t link_type, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        parsed_t *p = &parsed[i];
        p->reason = kw_parse(&p->packet, data + offsets[i], offsets[i + 1] - offsets[i], wire[i], link_type);
        if (p->reason != METERED) continue;
        p->hash = hash(m->seed, &p->packet.key);
        __builtin_prefetch(&m->live.index[p->hash & m->live.mask]);
    }
    for (int64_t i = 0; i < n; i++) {
        if (parsed[i].reason != METERED) continue;
        int32_t slot = m->live.index[parsed[i].hash & m->live.mask];
        if (slot != NIL) fetch_flow(m, slot);
        else if (m->ended.n) __builtin_prefetch(&m->ended.index[parsed[i].hash & m->ended.mask]);
    }
}

/* Meter the packets from `at` to `n`; return the first one not consumed, and in `why` the reason to stop there. SELECTED:
 * kw_selected() tells of its payload, and kw_tell() has to tell what it is. WEIGHTS: the windows want a longer table. */
int64_t kw_feed(meter_t *m, const uint8_t *data, const int64_t *offsets, const int64_t *times, const int32_t *wire,
                int32_t link_type, int64_t at, int64_t n, int32_t *why) {
    parsed_t parsed[BLOCK];
    *why = DONE;
    for (int64_t end = at; at < n; at++) {
        if (m->n_out >= m->max_out) { *why = FULL; return at; }
        if (m->wants_weights) { *why = WEIGHTS; return at; }
        if (at == end) {
            end = MIN(at + BLOCK, n);
            parse_block(m, parsed + BLOCK - (end - at), data, offsets + at, wire + at, link_type, end - at);
        }
        const parsed_t *p = &parsed[BLOCK - (end - at)];
        int64_t now = MIN(MAX(times[at], 0), LATEST);
        if ((*why = advance(m, now)) != DONE) return at;
        if (p->reason != METERED) {
            m->ignored[p->reason]++;
            continue;
        }
        int32_t bits = 0;
        if (m->applications.kinds && p->packet.payload) {
            bits = read_payload(m, &p->packet, data + offsets[at], offsets[at + 1] - offsets[at]);
            if (bits == UNKNOWN) { *why = SELECTED; return at; }
        }
        meter_packet(m, &p->packet, p->hash, now, (uint32_t)bits);
    }
    return at;
}

/* Move the clock on without packets; FULL: take the closed flows and call again. */
int32_t kw_expire(meter_t *m, int64_t now) { return now > m->clock ? advance(m, now) : DONE; }

int32_t kw_flush(meter_t *m) { return close_all(m) ? DONE : FULL; }

/* What Python views. */
int64_t *kw_selected(meter_t *m) { return m->applications.selected; }
int32_t kw_live(meter_t *m) { return m->live.n; }

void kw_counters(meter_t *m, int64_t *to) {
    const applications_t *a = &m->applications;
    to[0] = m->metered; to[1] = m->opened; to[2] = m->steps;
    to[3] = a->read; to[4] = a->skipped; to[5] = a->malformed;
    to[6] = kw_windows_evicted(m->windows);
    memcpy(to + 7, m->ignored, sizeof m->ignored);
    memcpy(to + 7 + N_REASONS, m->closed, sizeof m->closed);
}
