/* Memory of what was read of message heads. */
#ifndef KW_HEADS_H
#define KW_HEADS_H
#include <stdint.h>

enum { MQTT = 1, COAP, DNS, MDNS, SSDP, DHCP, DHCP6, TLS }; /* applications.Kind */
enum { MAX_PAYLOAD = 512, HEAD_BYTES = 96, UNKNOWN = -1 };

typedef struct heads heads_t;

heads_t *kw_heads_new(uint64_t seed);
void kw_heads_free(heads_t *h);

/* What a payload was found to be, or UNKNOWN: then kw_heads_keep() may tell what it is. */
int32_t kw_heads_find(heads_t *h, int32_t kind, const uint8_t *payload, int64_t size);
void kw_heads_keep(heads_t *h, int32_t found);

/* The bytes on which the reading of a payload depends, as far as it does; return how many, HEAD_BYTES at most. */
int32_t kw_head(int32_t kind, const uint8_t *payload, int64_t size, uint8_t *to);

#endif
