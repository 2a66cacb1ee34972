/* What the headers of a packet say. */
#ifndef KW_PACKETS_H
#define KW_PACKETS_H
#include "table.h"

enum { ARP, NON_IP, LINK_TYPE, TRUNCATED_LINK, TRUNCATED_IP, MALFORMED_IP, TRUNCATED_TRANSPORT, MALFORMED_TRANSPORT,
       AFTER_TCP_END, N_REASONS, METERED = -1 };
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };

typedef struct {
    keyed_t key;
    int64_t payload, payload_at;
    uint32_t ip_len, seq;
    uint16_t window, sport, dport;
    uint8_t flags, has_tcp, swapped, symmetric;     /* the source is the second endpoint of the key; both are the same */
} packet_t;

/* Fill in a packet of `cap` captured bytes, `wire` on the wire, at least as many; return METERED or why there is none. */
int kw_parse(packet_t *p, const uint8_t *frame, int64_t cap, int64_t wire, int32_t link_type);

#endif
