/* Flows to records, by the formulas of device_agent/flows/columnar/export.py, step by step in the same order, so that both
 * round alike. */
#include <math.h>
#include "records.h"
#include "bytes.h"

enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58 };
enum { ID_WORDS = 6 };
#define GOLDEN 0x9E3779B97F4A7C15ULL
#define SECOND_US 1e6

/* ids.flow_ids: two chains of SplitMix64. */
static uint64_t flow_id(const uint64_t words[ID_WORDS]) {
    uint64_t left = 0, right = GOLDEN;
    for (int i = 0; i < ID_WORDS; i++) {
        left = mix((left ^ words[i]) + GOLDEN);
        right = mix(right + words[i] + GOLDEN);
    }
    return (left ^ right) >> 1;
}

/* The 16 bytes of an endpoint of a key as two words. */
static void set_address(uint64_t to[2], const keyed_t *key, int second) {
    if (key->v6) memcpy(to, key->x + 2 * second, 2 * sizeof *to);
    else {
        to[0] = 0;
        to[1] = 0xFFFF00000000ULL | (second ? key->k0 & UINT32_MAX : key->k0 >> 32);
    }
}

static void set_identity(identity_t *id, const flow_t *f, const keyed_t *key, int reason) {
    const uint16_t ports[2] = {(uint16_t)(key->k1 >> 48), (uint16_t)(key->k1 >> 32)};
    uint16_t src_port = ports[f->swapped], dst_port = ports[!f->swapped];
    uint64_t words[ID_WORDS];
    set_address(words, key, f->swapped);
    set_address(words + 2, key, !f->swapped);
    words[4] = (uint64_t)src_port << 48 | (uint64_t)dst_port << 32 | (key->k1 & UINT32_MAX);
    words[5] = (uint64_t)f->first;
    id->flow_id = flow_id(words);
    id->start = f->first;
    id->end = f->last;
    for (int i = 0; i < 2; i++) {
        put64(id->src + 8 * i, words[i]);
        put64(id->dst + 8 * i, words[2 + i]);
    }
    id->ip_version = key->v6 ? 6 : 4;
    id->src_port = src_port;
    id->dst_port = dst_port;
    id->proto = (uint8_t)key->k1;
    id->vlan = key->k1 >> 8 & 0x0FFF;
    id->end_reason = (uint8_t)reason;
    id->part = f->part;
}

/* The sample standard deviation of `n` integers; `squares` is modulo 2^64. With the mean rounded to an integer, the sum of
 * squared distances from it is exact. */
static double deviation(int64_t n, int64_t total, uint64_t squares) {
    if (n < 2) return 0;
    int64_t mean = (2 * total + n) / (2 * n);
    double rest = (double)(total - n * mean);
    uint64_t m = (uint64_t)mean, about_mean = squares - 2 * m * (uint64_t)total + (uint64_t)n * m * m;
    double variance = ((double)about_mean - rest * rest / (double)n) / (double)(n - 1);
    return variance > 0 ? sqrt(variance) : 0;
}

/* Least, greatest, mean and deviation, by `unit`. */
static void statistics(double *to, int64_t n, int64_t total, uint64_t squares, int64_t least, int64_t greatest, double unit) {
    if (n <= 0) {
        memset(to, 0, 4 * sizeof *to);
        return;
    }
    to[0] = (double)least / unit;
    to[1] = (double)greatest / unit;
    to[2] = (double)total / (double)n / unit;
    to[3] = deviation(n, total, squares) / unit;
}

static void set_flags(double *to, const side_t *s) {
    const uint64_t pairs[3] = {s->syn_ack, s->fin_rst, s->psh_urg};
    for (int i = 0; i < 3; i++) {
        to[2 * i] = (double)(uint32_t)pairs[i];
        to[2 * i + 1] = (double)(uint32_t)(pairs[i] >> 32);
    }
}

static void set_features(double *x, const flow_t *f, int proto) {
    const side_t *fwd = &f->side[0], *bwd = &f->side[1];
    int64_t pkts = (int64_t)(fwd->pkts + bwd->pkts), bytes = (int64_t)(fwd->bytes + bwd->bytes), span = f->last - f->first;
    int64_t spans[2] = {fwd->pkts ? fwd->last - fwd->first : 0, bwd->pkts ? bwd->last - bwd->first : 0};
    double per_second = SECOND_US / (double)MAX(span, 1);
    x[AT_proto_tcp] = proto == TCP;
    x[AT_proto_udp] = proto == UDP;
    x[AT_proto_icmp] = proto == ICMP || proto == ICMPV6;
    x[AT_duration_s] = (double)span / SECOND_US;
    x[AT_bytes_per_s] = (double)bytes * per_second;
    x[AT_pkts_per_s] = (double)pkts * per_second;
    x[AT_down_up_ratio] = fwd->pkts ? (double)bwd->pkts / (double)fwd->pkts : 0;
    x[AT_handshake_done] = (f->tcp & (HAS_TCP | HANDSHAKE)) == (HAS_TCP | HANDSHAKE);
    statistics(x + AT_all_len_min, pkts, bytes, fwd->len_squares + bwd->len_squares, MIN(fwd->len_min, bwd->len_min),
               MAX(fwd->len_max, bwd->len_max), 1);
    statistics(x + AT_all_iat_min_s, pkts - 1, span, f->gap_squares, f->gap_min, f->gap_max, SECOND_US);
    for (int i = 0; i < 2; i++) {
        const side_t *s = &f->side[i];
        x[AT_fwd_pkts + i] = (double)s->pkts;
        x[AT_fwd_bytes + i] = (double)s->bytes;
        x[AT_fwd_payload_bytes + i] = (double)s->payload_bytes;
        x[AT_fwd_payload_pkts + i] = (double)s->payload_pkts;
        x[AT_fwd_duration_s + i] = (double)spans[i] / SECOND_US;
        x[AT_fwd_bytes_per_s + i] = (double)s->bytes * per_second;
        x[AT_fwd_init_win + i] = MAX(s->window, 0);
        x[AT_fwd_retrans_pkts + i] = s->retransmitted;
        statistics(x + (i ? AT_bwd_len_min : AT_fwd_len_min), (int64_t)s->pkts, (int64_t)s->bytes, s->len_squares, s->len_min,
                   s->len_max, 1);
        statistics(x + (i ? AT_bwd_iat_min_s : AT_fwd_iat_min_s), (int64_t)s->pkts - 1, spans[i], s->gap_squares, s->gap_min,
                   s->gap_max, SECOND_US);
        set_flags(x + (i ? AT_bwd_syn_pkts : AT_fwd_syn_pkts), s);
    }
    for (int i = 0; i < N_APPLICATIONS; i++) x[AT_mqtt_connect_pkts + i] = f->applications[i];
    memcpy(x + AT_initiator_flows, f->opened, sizeof f->opened);
}

void kw_record(const flow_t *f, const keyed_t *key, int reason, identity_t *identity, double *features) {
    set_identity(identity, f, key, reason);
    set_features(features, f, identity->proto);
}

/* What Python compares with its own layout before it uses this library. */
int64_t kw_identity_bytes(void) { return sizeof(identity_t); }
const char *kw_feature_names(void) { return FEATURES(AS_TEXT); }
