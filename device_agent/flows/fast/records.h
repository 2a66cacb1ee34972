/* Flows to records. */
#ifndef KW_RECORDS_H
#define KW_RECORDS_H
#include "features.h"
#include "flow.h"

typedef struct __attribute__((packed)) {            /* records.IDENTITY */
    uint64_t flow_id;
    int64_t start, end;
    uint8_t src[16], dst[16], ip_version;
    uint16_t src_port, dst_port;
    uint8_t proto;
    uint16_t vlan;
    uint8_t end_reason;
    uint16_t part;
} identity_t;

/* Fill in what a flow is, and its N_FEATURES features. */
void kw_record(const flow_t *f, const keyed_t *key, int reason, identity_t *identity, double *features);

#endif
