/* The flow meter, packet by packet, for the optional engine `fast`.
 *
 * The rules are those of device_agent/flows/meter.py and packets.py; this file holds them a second time for speed and is
 * tested to give the same records. The table and the records belong to this library; Python views the records as an
 * array of FLOW (device_agent/flows/columnar/state.py), whose layout kw_flow_bytes() confirms. Windows of initiators are in
 * windows.c. Dissection stays in Python: kw_feed() stops at a selected packet, and the next call brings what it is. */
#include "table.h"
#include "windows.h"

enum { ARP, NON_IP, LINK_TYPE, TRUNCATED_LINK, TRUNCATED_IP, MALFORMED_IP, TRUNCATED_TRANSPORT, MALFORMED_TRANSPORT,
       AFTER_TCP_END, N_REASONS, METERED = -1 };
enum { IDLE, ACTIVE, TCP_END, EVICT, FLUSH, EARLY, N_ENDS };
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };
enum { HANDSHAKE = 3, ANSWERED = 4, FIN_FORWARD = 8, FIN_BACKWARD = 16, CLOSED_FORWARD = 32, HAS_TCP = 64 };
enum { DONE, FULL, SELECTED, WEIGHTS };             /* why a call returned */
#define TRAILING (5 * SECOND)
#define CLOCK_STEP (60 * SECOND)
#define LATEST (1LL << 62)
#define UNSEEN INT64_MAX
#define N_APPLICATIONS 10
#define TLS 8                                       /* applications.Kind.TLS */
#define HANDSHAKE_RECORD 0x16

typedef struct {                                    /* state.FLOW, aligned */
    uint64_t key_0, key_1, v6_words[4];
    uint8_t is_v6, swapped, tcp, answered;
    uint16_t part;
    int32_t window[2];
    int64_t number;                                 /* which opening it is */
    double opened[N_OPENED];
    int64_t isn, first, last, gap_min, gap_max;
    uint64_t gap_squares;
    int64_t side_first[2], side_last[2];
    uint64_t sums[2][9];
    int64_t least[2][2], greatest[2][2], top[2];
    uint32_t retransmitted[2], applications[N_APPLICATIONS];
} flow_t;

typedef struct {
    table_t live, ended;
    flow_t *flows;
    int32_t *initiators;                            /* where windows.c keeps the initiator of each flow */
    windows_t *windows;
    uint64_t seed;
    int64_t *ended_us, idle, active, clock, next_tick, early_us;
    int32_t max_flows, early_pkts, wants_weights;
    uint8_t *kinds;                                 /* applications.KINDS; NULL without a dissector */
    int64_t second, left, per_s, selected[3];       /* budget; the selected packet: kind, begin and size of its payload */
    flow_t *out;                                    /* closed flows, to be taken by Python */
    uint8_t *out_reason;
    int32_t n_out, max_out;
    int64_t metered, opened, steps, skipped, ignored[N_REASONS], closed[N_ENDS];
} meter_t;

typedef struct {
    keyed_t key;
    int64_t ip_len, payload, payload_at;
    uint32_t seq;
    uint16_t window, sport, dport;
    uint8_t flags, has_tcp, swapped, symmetric;
} packet_t;

/* ---- parsing: device_agent/flows/packets.py ---- */

static uint32_t u16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t u32(const uint8_t *p) { return u16(p) << 16 | u16(p + 2); }
static uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) << 32 | u32(p + 4); }
static uint32_t little32(const uint8_t *p) {
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}
static int is_vlan(uint32_t type) { return type == 0x8100 || type == 0x88A8 || type == 0x9100; }

static void set_key(packet_t *p, const uint8_t *src, const uint8_t *dst, int v6, uint32_t sport, uint32_t dport,
                    uint32_t proto, uint32_t vlan) {
    keyed_t *k = &p->key;
    int order = memcmp(src, dst, v6 ? 16 : 4);
    if (!order) order = (sport > dport) - (sport < dport);
    p->swapped = order > 0;
    p->symmetric = !order;
    if (order > 0) {
        const uint8_t *a = src; src = dst; dst = a;
        uint32_t q = sport; sport = dport; dport = q;
    }
    k->v6 = v6;
    k->k0 = v6 ? 0 : (uint64_t)u32(src) << 32 | u32(dst);
    if (v6) { k->x[0] = u64(src); k->x[1] = u64(src + 8); k->x[2] = u64(dst); k->x[3] = u64(dst + 8); }
    else memset(k->x, 0, sizeof k->x);
    k->k1 = (uint64_t)sport << 48 | (uint64_t)dport << 32 | (uint64_t)vlan << 8 | proto;
}

static int transport(packet_t *p, const uint8_t *f, int64_t cap, int64_t at, int64_t length, const uint8_t *src,
                     const uint8_t *dst, int v6, uint32_t proto, uint32_t vlan, int fragment) {
    uint32_t sport = 0, dport = 0;
    int64_t captured = MIN(cap - at, length);
    p->flags = p->has_tcp = 0;
    p->seq = 0;
    p->window = 0;
    p->payload = length;
    if (fragment) { /* no header here */
    } else if (proto == 6) {
        if (length < 20) return MALFORMED_TRANSPORT;
        if (captured < 16) return TRUNCATED_TRANSPORT;
        const uint8_t *h = f + at;
        p->payload = length - (h[12] >> 4) * 4;
        if (h[12] < 0x50 || p->payload < 0) return MALFORMED_TRANSPORT;
        sport = u16(h); dport = u16(h + 2); p->seq = u32(h + 4);
        p->flags = h[13] & 0x3F; p->window = u16(h + 14); p->has_tcp = 1;
    } else if (proto == 17) {
        if (length < 8) return MALFORMED_TRANSPORT;
        if (captured < 4) return TRUNCATED_TRANSPORT;
        sport = u16(f + at); dport = u16(f + at + 2);
        p->payload = length - 8;
    } else if (proto == 1 || proto == 58) p->payload = MAX(0, length - 8);
    p->payload_at = at + length - p->payload;
    p->sport = (uint16_t)sport;
    p->dport = (uint16_t)dport;
    set_key(p, src, dst, v6, sport, dport, proto, vlan);
    return METERED;
}

static int parse_ipv4(packet_t *p, const uint8_t *f, int64_t cap, int64_t start, int64_t wire, uint32_t vlan) {
    if (cap < start + 20) return TRUNCATED_IP;
    const uint8_t *h = f + start;
    int64_t header = (h[0] & 15) * 4, total = u16(h + 2);
    if (h[0] >> 4 != 4 || header < 20) return MALFORMED_IP;
    total = total ? MIN(total, wire) : wire;
    if (total < header) return MALFORMED_IP;
    if (cap < start + header) return TRUNCATED_IP;
    p->ip_len = total;
    return transport(p, f, cap, start + header, total - header, h + 12, h + 16, 0, h[9], vlan, (u16(h + 6) & 0x1FFF) != 0);
}

static int parse_ipv6(packet_t *p, const uint8_t *f, int64_t cap, int64_t start, int64_t wire, uint32_t vlan) {
    if (cap < start + 40) return TRUNCATED_IP;
    const uint8_t *h = f + start;
    if (h[0] >> 4 != 6) return MALFORMED_IP;
    int64_t payload = u16(h + 4), total = payload ? MIN(40 + payload, wire) : wire, at = start + 40, rest = total - 40;
    uint32_t proto = h[6];
    p->ip_len = total;
    for (int i = 0; i < 8; i++) {
        int64_t length;
        uint32_t header = proto;
        switch (header) {
        case 0: case 43: case 44: case 51: case 60: case 135: case 139: case 140: break;
        default: return transport(p, f, cap, at, rest, h + 8, h + 24, 1, proto, vlan, 0);
        }
        if (rest < 8) return MALFORMED_IP;
        if (cap < at + 8) return TRUNCATED_IP;
        proto = f[at];
        if (header == 44 && (f[at + 2] || f[at + 3] >> 3))
            return transport(p, f, cap, at, rest - 8, h + 8, h + 24, 1, proto, vlan, 1);
        length = header == 44 ? 8 : header == 51 ? (f[at + 1] + 2) * 4 : (f[at + 1] + 1) * 8;
        if (rest < length) return MALFORMED_IP;
        at += length;
        rest -= length;
    }
    return MALFORMED_IP;
}

static int parse(packet_t *p, const uint8_t *f, int64_t cap, int64_t wire, int32_t link_type) {
    int64_t start;
    uint32_t type, vlan = 0;
    switch (link_type) {
    case 1:
        if (cap < 14) return TRUNCATED_LINK;
        start = 14; type = u16(f + 12); break;
    case 113:
        if (cap < 16) return TRUNCATED_LINK;
        start = 16; type = u16(f + 14); break;
    case 276:
        if (cap < 20) return TRUNCATED_LINK;
        start = 20; type = u16(f); break;
    case 12: case 14: case 101: case 228: case 229:
        if (cap < 1) return TRUNCATED_LINK;
        start = 0; type = f[0] >> 4 == 4 ? 0x0800 : f[0] >> 4 == 6 ? 0x86DD : 0; break;
    case 0: case 108: {
        if (cap < 4) return TRUNCATED_LINK;
        uint32_t family = f[3] ? f[3] : f[0];
        start = 4;
        type = family == 2 ? 0x0800 : family == 10 || family == 24 || family == 28 || family == 30 ? 0x86DD : 0;
        break;
    }
    default: return LINK_TYPE;
    }
    for (int i = 0; i < 2 && is_vlan(type); i++) {
        if (cap < start + 4) return TRUNCATED_LINK;
        vlan = vlan << 12 | (u16(f + start) & 0x0FFF);
        type = u16(f + start + 2);
        start += 4;
    }
    if (type == 0x0800) return parse_ipv4(p, f, cap, start, wire - start, vlan);
    if (type == 0x86DD) return parse_ipv6(p, f, cap, start, wire - start, vlan);
    return type == 0x0806 ? ARP : NON_IP;
}

/* ---- flows: device_agent/flows/state.py and tcp.py ---- */

static void begin(flow_t *f, int64_t now) {
    f->first = f->last = now;
    f->gap_min = UNSEEN; f->gap_max = 0; f->gap_squares = 0;
    memset(f->side_first, 0, sizeof f->side_first);
    memset(f->side_last, 0, sizeof f->side_last);
    memset(f->sums, 0, sizeof f->sums);
    memset(f->greatest, 0, sizeof f->greatest);
    memset(f->retransmitted, 0, sizeof f->retransmitted);
    memset(f->applications, 0, sizeof f->applications);
    for (int i = 0; i < 4; i++) f->least[i / 2][i % 2] = UNSEEN;
}

static void count(flow_t *f, const packet_t *p, int64_t now, int side) {
    if (f->sums[0][0] + f->sums[1][0]) {
        int64_t gap = now - f->last;
        f->gap_min = MIN(f->gap_min, gap);
        f->gap_max = MAX(f->gap_max, gap);
        f->gap_squares += (uint64_t)gap * (uint64_t)gap;
    }
    f->last = now;
    uint64_t *s = f->sums[side];
    if (s[0]) {
        int64_t gap = now - f->side_last[side];
        f->least[side][1] = MIN(f->least[side][1], gap);
        f->greatest[side][1] = MAX(f->greatest[side][1], gap);
        s[5] += (uint64_t)gap * (uint64_t)gap;
    } else f->side_first[side] = now;
    f->side_last[side] = now;
    f->least[side][0] = MIN(f->least[side][0], p->ip_len);
    f->greatest[side][0] = MAX(f->greatest[side][0], p->ip_len);
    s[0] += 1;
    s[1] += (uint64_t)p->ip_len;
    s[2] += (uint64_t)p->payload;
    s[3] += p->payload != 0;
    s[4] += (uint64_t)p->ip_len * (uint64_t)p->ip_len;
    s[6] += (uint64_t)((p->flags & SYN) != 0) | (uint64_t)((p->flags & ACK) != 0) << 32;
    s[7] += (uint64_t)((p->flags & FIN) != 0) | (uint64_t)((p->flags & RST) != 0) << 32;
    s[8] += (uint64_t)((p->flags & PSH) != 0) | (uint64_t)((p->flags & URG) != 0) << 32;
}

/* Take in where the payload of a TCP segment ends: TcpState.repeats of tcp.py. */
static void note_payload(flow_t *f, const packet_t *p, int side) {
    if (!p->has_tcp || !p->payload) return;
    uint32_t end = p->seq + (uint32_t)p->payload + ((p->flags & SYN) != 0);
    uint32_t ahead = end - (uint32_t)f->top[side];
    if (f->top[side] >= 0 && (ahead == 0 || ahead >= 0x80000000u)) f->retransmitted[side]++;
    else f->top[side] = end;
}

/* Take in the flags of a TCP packet; return whether the connection ended with it. */
static int note(flow_t *f, const packet_t *p, int forward) {
    uint8_t flags = p->flags, state = f->tcp;
    if (f->window[!forward] < 0) f->window[!forward] = p->window;
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

static void emit(meter_t *m, int32_t slot, int reason) {
    m->out[m->n_out] = m->flows[slot];
    m->out_reason[m->n_out++] = reason;
    m->closed[reason]++;
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
    f->key_0 = p->key.k0; f->key_1 = p->key.k1;
    memcpy(f->v6_words, p->key.x, sizeof f->v6_words);
    f->is_v6 = p->key.v6;
    f->swapped = p->swapped ^ reverse;
    f->tcp = p->has_tcp ? HAS_TCP : 0;
    f->answered = 0;
    f->part = 0;
    f->number = m->opened++;
    f->window[0] = f->window[1] = -1;
    f->top[0] = f->top[1] = -1;
    f->isn = -1;
    begin(f, now);
    m->initiators[slot] = kw_windows_open(m->windows, &p->key, f->swapped, m->clock, f->number, f->opened);
    m->wants_weights = kw_windows_wanted(m->windows) != 0;
    return slot;
}

/* Whether a packet is selected for dissection: applications.payload_of; its payload is noted in `selected`. */
static int is_selected(meter_t *m, const packet_t *p, const uint8_t *f, int64_t cap) {
    const uint8_t *by_port = m->kinds + ((p->key.k1 & 0xFF) == 6) * 65536;
    int kind = MAX(by_port[p->sport], by_port[p->dport]);
    if (!kind) return 0;
    int64_t size = MIN(p->payload, cap - p->payload_at);
    if (size <= 0 || (kind == TLS && f[p->payload_at] != HANDSHAKE_RECORD)) return 0;
    m->selected[0] = kind;
    m->selected[1] = p->payload_at;
    m->selected[2] = size;
    return 1;
}

/* Applications.take for one packet. */
static int within_budget(meter_t *m) {
    int64_t second = m->clock / SECOND;
    if (second != m->second) {
        m->second = second;
        m->left = m->per_s;
    }
    if (m->left) return m->left--, 1;
    m->skipped++;
    return 0;
}

static int is_early(const meter_t *m, const flow_t *f) {
    return (m->early_pkts && f->sums[0][0] + f->sums[1][0] >= (uint64_t)m->early_pkts) ||
           (m->early_us && f->last - f->first >= m->early_us);
}

static void meter_packet(meter_t *m, const packet_t *p, int64_t now, uint32_t bits) {
    uint64_t h = hash(m->seed, &p->key);
    int32_t slot = find(&m->live, &p->key, h);
    int opens_tcp = (p->flags & (SYN | ACK)) == SYN;
    if (slot != NIL) {
        flow_t *f = &m->flows[slot];
        now = MAX(now, f->last);
        if (now - f->last >= m->idle) {
            close_flow(m, slot, IDLE);
            slot = NIL;
        } else if (f->tcp & HAS_TCP && f->tcp & ANSWERED && opens_tcp && f->isn != (int64_t)p->seq) {
            close_flow(m, slot, TCP_END);
            slot = NIL;
        } else if (now - f->first >= m->active) {
            emit(m, slot, ACTIVE);
            f->part = MIN(f->part + 1, 0xFFFF);
            begin(f, now);
        }
    }
    if (slot == NIL) {
        int32_t e;
        if (p->has_tcp && m->ended.n && (e = find(&m->ended, &p->key, h)) != NIL) {
            if (!opens_tcp && now - m->ended_us[e] < TRAILING) {
                m->ignored[AFTER_TCP_END]++;
                return;
            }
            delete(&m->ended, e);
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
        kw_windows_answer(m->windows, m->initiators[slot], f->number);
    }
    int was_early = f->part || is_early(m, f);
    count(f, p, now, !forward);
    for (int i = 0; bits; i++, bits >>= 1) f->applications[i] += bits & 1;
    if (f->tcp & HAS_TCP) {
        note_payload(f, p, !forward);
        if (note(f, p, forward)) {
            close_flow(m, slot, TCP_END);
            remember_end(m, &p->key, h, now);
            return;
        }
    }
    if (!was_early && is_early(m, f)) emit(m, slot, EARLY);
}

/* ---- what Python calls ---- */

int64_t kw_flow_bytes(void) { return sizeof(flow_t); }

void kw_free(meter_t *m) {
    if (!m) return;
    table_free(&m->live); table_free(&m->ended); kw_windows_free(m->windows);
    free(m->flows); free(m->initiators); free(m->ended_us);
    free(m->out); free(m->out_reason); free(m->kinds);
    free(m);
}

/* A meter, which frees `windows` when it is freed itself; NULL, and they are freed, if there is no memory. */
meter_t *kw_new(int64_t idle, int64_t active, int32_t max_flows, uint64_t seed, int32_t max_out, windows_t *windows) {
    meter_t *m = calloc(1, sizeof *m);
    if (!m) { kw_windows_free(windows); return NULL; }
    m->idle = idle; m->active = active; m->max_flows = max_flows; m->seed = seed;
    m->max_out = max_out; m->windows = windows;
    int ok = table_new(&m->live, max_flows) && table_new(&m->ended, max_flows);
    m->flows = malloc(sizeof(flow_t) * max_flows);
    m->initiators = malloc(sizeof(int32_t) * max_flows);
    m->ended_us = malloc(sizeof(int64_t) * max_flows);
    m->out = calloc(max_out + 4, sizeof(flow_t));   /* a packet closes at most three flows itself */
    m->out_reason = calloc(max_out + 4, 1);
    if (ok && windows && m->flows && m->initiators && m->ended_us && m->out && m->out_reason) return m;
    kw_free(m);
    return NULL;
}

/* When flows get their early records; 0 for never. */
void kw_early(meter_t *m, int32_t pkts, int64_t after_us) {
    m->early_pkts = pkts;
    m->early_us = after_us;
}

/* Select packets by `kinds` (2 x 65536 bytes), `per_s` in each second; return whether there was memory for that. */
int32_t kw_select(meter_t *m, const uint8_t *kinds, int64_t per_s) {
    if (!(m->kinds = malloc(2 * 65536))) return 0;
    memcpy(m->kinds, kinds, 2 * 65536);
    m->second = -1;
    m->per_s = per_s;
    return 1;
}

/* Go on with a table of `n` weights, which reaches kw_windows_wanted(). */
void kw_weights(meter_t *m, const int64_t *weights, int64_t n) {
    kw_windows_weights(m->windows, weights, n);
    m->wants_weights = kw_windows_wanted(m->windows) != 0;
}

/* Meter the packets from `at` to `n`; return the first one not consumed, and in `why` the reason to stop there. SELECTED:
 * kw_selected() tells of its payload, and the next call brings as `bits` what it is; else `bits` is -1. WEIGHTS: the
 * windows want a longer table first. */
int64_t kw_feed(meter_t *m, const uint8_t *data, const int64_t *offsets, const int64_t *times, const int32_t *wire,
                int32_t link_type, int64_t at, int64_t n, int32_t bits, int32_t *why) {
    packet_t p;
    *why = DONE;
    for (; at < n; at++) {
        if (m->n_out >= m->max_out) { *why = FULL; return at; }
        if (m->wants_weights) { *why = WEIGHTS; return at; }
        int64_t now = MIN(MAX(times[at], 0), LATEST);
        if ((*why = advance(m, now)) != DONE) return at;
        int reason = parse(&p, data + offsets[at], offsets[at + 1] - offsets[at], wire[at], link_type);
        if (reason != METERED) m->ignored[reason]++;
        else {
            if (bits < 0 && m->kinds && p.payload && is_selected(m, &p, data + offsets[at], offsets[at + 1] - offsets[at]) &&
                within_budget(m)) {
                *why = SELECTED;
                return at;
            }
            meter_packet(m, &p, now, (uint32_t)MAX(bits, 0));
            bits = -1;
        }
    }
    return at;
}

/* Move the clock on without packets; FULL: take the closed flows and call again. */
int32_t kw_expire(meter_t *m, int64_t now) { return now > m->clock ? advance(m, now) : DONE; }

int32_t kw_flush(meter_t *m) { return close_all(m) ? DONE : FULL; }

/* Sizes and places of everything Python views; `n_out` is reset by taking. */
flow_t *kw_out(meter_t *m) { return m->out; }
uint8_t *kw_out_reason(meter_t *m) { return m->out_reason; }
int32_t kw_take(meter_t *m) { int32_t n = m->n_out; m->n_out = 0; return n; }
int64_t *kw_selected(meter_t *m) { return m->selected; }
int32_t kw_live(meter_t *m) { return m->live.n; }

void kw_counters(meter_t *m, int64_t *to) {
    to[0] = m->metered; to[1] = m->opened; to[2] = m->steps; to[3] = m->skipped;
    to[4] = kw_windows_evicted(m->windows);
    memcpy(to + 5, m->ignored, sizeof m->ignored);
    memcpy(to + 5 + N_REASONS, m->closed, sizeof m->closed);
}

/* Read the records of a classic pcap file from `at` on: the first bytes of each frame one behind the other from
 * offsets[0] on, their offsets, times in microseconds and lengths on the wire. Return how many were whole; `at` moves. */
int64_t kw_read(const uint8_t *data, int64_t length, int64_t *at, int32_t big_endian, int64_t per_us, int64_t snap,
                int64_t most, uint8_t *frames, int64_t *offsets, int64_t *times, int32_t *wire) {
    int64_t n = 0, here = *at, filled = offsets[0];
    while (n < most && here + 16 <= length) {
        uint32_t h[4];
        for (int i = 0; i < 4; i++) {
            const uint8_t *b = data + here + 4 * i;
            h[i] = big_endian ? u32(b) : little32(b);
        }
        if (h[2] > 262144 || here + 16 + (int64_t)h[2] > length) break;
        int64_t kept = MIN((int64_t)h[2], snap);
        memcpy(frames + filled, data + here + 16, (size_t)kept);
        filled += kept;
        times[n] = (int64_t)h[0] * SECOND + h[1] / per_us;
        wire[n] = (int32_t)MIN(MAX((int64_t)h[3], kept), INT32_MAX);
        offsets[++n] = filled;
        here += 16 + h[2];
    }
    *at = here;
    return n;
}
