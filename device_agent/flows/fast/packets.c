/* Headers of packets, by the rules of device_agent/flows/packets.py. */
#include "packets.h"
#include "bytes.h"

static int is_vlan(uint32_t type) { return type == 0x8100 || type == 0x88A8 || type == 0x9100; }

static void set_key(packet_t *p, const uint8_t *src, const uint8_t *dst, int v6, uint32_t sport, uint32_t dport,
                    uint32_t proto, uint32_t vlan) {
    keyed_t *k = &p->key;
    uint64_t from[2] = {v6 ? u64(src) : 0, v6 ? u64(src + 8) : u32(src)};
    uint64_t to[2] = {v6 ? u64(dst) : 0, v6 ? u64(dst + 8) : u32(dst)};
    int order = (from[0] > to[0]) - (from[0] < to[0]);
    if (!order) order = (from[1] > to[1]) - (from[1] < to[1]);
    if (!order) order = (sport > dport) - (sport < dport);
    p->swapped = order > 0;
    p->symmetric = !order;
    const uint64_t *first = order > 0 ? to : from, *second = order > 0 ? from : to;
    uint32_t ports = order > 0 ? dport << 16 | sport : sport << 16 | dport;
    k->v6 = (uint8_t)v6;
    k->k0 = v6 ? 0 : first[1] << 32 | second[1];
    for (int i = 0; i < 2; i++) {
        k->x[i] = v6 ? first[i] : 0;
        k->x[2 + i] = v6 ? second[i] : 0;
    }
    k->k1 = (uint64_t)ports << 32 | (uint64_t)vlan << 8 | proto;
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
    p->ip_len = (uint32_t)total;
    return transport(p, f, cap, start + header, total - header, h + 12, h + 16, 0, h[9], vlan, (u16(h + 6) & 0x1FFF) != 0);
}

static int parse_ipv6(packet_t *p, const uint8_t *f, int64_t cap, int64_t start, int64_t wire, uint32_t vlan) {
    if (cap < start + 40) return TRUNCATED_IP;
    const uint8_t *h = f + start;
    if (h[0] >> 4 != 6) return MALFORMED_IP;
    int64_t payload = u16(h + 4), total = payload ? MIN(40 + payload, wire) : wire, at = start + 40, rest = total - 40;
    uint32_t proto = h[6];
    p->ip_len = (uint32_t)total;
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

int kw_parse(packet_t *p, const uint8_t *f, int64_t cap, int64_t wire, int32_t link_type) {
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
