/* A live flow, or one part of it: what device_agent/flows/columnar/state.py keeps in columns. */
#ifndef KW_FLOW_H
#define KW_FLOW_H
#include "table.h"
#include "windows.h"

enum { HANDSHAKE = 3, ANSWERED = 4, FIN_FORWARD = 8, FIN_BACKWARD = 16, CLOSED_FORWARD = 32, HAS_TCP = 64 };
enum { N_APPLICATIONS = 10 };
#define UNSEEN INT64_MAX

typedef struct {                                    /* one direction */
    uint64_t pkts, bytes, payload_bytes, payload_pkts, len_squares, gap_squares;
    uint64_t syn_ack, fin_rst, psh_urg;             /* two counters each, the first-named one in the low half */
    int64_t first, last, gap_min, gap_max;
    uint32_t len_min, len_max;
    int64_t top;                                    /* where payload ends at most; -1 before any */
    int32_t window;                                 /* first window field; -1 before it */
    uint32_t retransmitted;
} side_t;

typedef struct {
    /* What every packet needs comes first, a line of the cache; then two lines for each direction. */
    _Alignas(64) int64_t first;
    int64_t last, gap_min, gap_max;
    uint64_t gap_squares;
    int64_t isn, number;                            /* sequence number of the last forward SYN; which opening it is */
    int32_t initiator;                              /* where windows.c keeps it */
    uint16_t part;
    uint8_t tcp;
    uint8_t swapped : 1, answered : 1;
    side_t side[2];                                 /* forward and backward */
    double opened[N_OPENED];
    uint32_t applications[N_APPLICATIONS];
} flow_t;

#endif
