/* Message heads that were read before, so that Python reads each only once.
 *
 * What a message counts as depends on few of its bytes: on none of its number, its names, its values. kw_head() takes those
 * that matter to device_agent/capture/applications.py; two payloads with the same head are the same to it, and tests hold
 * that against it. Heads come from anyone: their places depend on a secret, whole heads are compared, and a set of four that
 * is full forgets the one it has had for longest. */
#include "heads.h"
#include "bytes.h"
#include "table.h"

enum { SETS = 512, WAYS = 4, MOST_MESSAGES = 8 };
enum { CONNECT = 1, PUBLISH = 3, SUBSCRIBE = 8 };   /* of MQTT */
enum { SSDP_BYTES = 19, MQTT_NAME_BYTES = 8, COOKIE_AT = 236, COOKIE_BYTES = 4 };

typedef struct {
    uint64_t hash;
    int32_t found;
    uint8_t size, bytes[HEAD_BYTES];                /* of size 0: nothing is kept here */
} head_t;

struct heads {
    head_t kept[SETS][WAYS], asked;
    uint8_t oldest[SETS];
    uint64_t seed;
};

/* ---- heads ---- */

typedef struct { uint8_t *to; const uint8_t *payload; int64_t size; } taking_t;

static void take(taking_t *t, uint32_t value) { *t->to++ = (uint8_t)value; }

/* Take some bits of a byte; behind the end they are 0, which the size tells apart. */
static void take_bits(taking_t *t, int64_t at, uint32_t bits) { take(t, at < t->size ? t->payload[at] & bits : 0); }

static void take_bytes(taking_t *t, int64_t at, int n) {
    for (int i = 0; i < n; i++) take_bits(t, at + i, 0xFF);
}

/* Take how long a payload is, as far as more bytes than `most` make no difference. */
static void take_size(taking_t *t, int64_t most) { take(t, (uint32_t)MIN(t->size, most)); }

/* Whether the body of a PUBLISH of `length` bytes, as far as it is there, begins with a topic. */
static int has_topic(const uint8_t *body, int64_t there, int64_t length) {
    if (there < 2) return 0;
    int64_t topic = u16(body);
    if (topic + 2 > length) return 0;
    for (const uint8_t *p = body + 2, *end = body + MIN(topic + 2, there); p < end; p++)
        if (!*p || *p == '#' || *p == '+') return 0;
    return 1;
}

/* Messages one behind the other: the first byte of each, and of the rest what is asked of that type. */
static void take_mqtt(taking_t *t) {
    int64_t at = 0;
    for (int n = 0; n < MOST_MESSAGES && at < t->size; n++) {
        const uint8_t *p = t->payload + at;
        int64_t there = t->size - at, length = 0, k = 1;
        for (; k <= 4 && k < there; k++) {
            length |= (int64_t)(p[k] & 127) << 7 * (k - 1);
            if (p[k] < 128) break;
        }
        int ends = k <= 4 && k < there;             /* the length */
        take(t, *p);
        take(t, (uint32_t)ends);
        if (!ends) return;
        const uint8_t *body = p + k + 1;
        there -= k + 1;
        if (*p >> 4 == PUBLISH) take(t, (uint32_t)has_topic(body, there, length));
        else if (*p >> 4 == SUBSCRIBE) take(t, length >= 5 && there >= 2);
        else if (*p >> 4 == CONNECT) {
            taking_t name = {t->to, body, there};
            take_size(&name, MQTT_NAME_BYTES);
            take_bytes(&name, 0, MQTT_NAME_BYTES);
            t->to = name.to;
        }
        at += k + 1 + length;
    }
}

int32_t kw_head(int32_t kind, const uint8_t *payload, int64_t size, uint8_t *to) {
    taking_t t = {to, payload, size};
    take(&t, (uint32_t)kind);
    switch (kind) {
    case MQTT:
        take_mqtt(&t);
        break;
    case COAP:                                      /* version and length of the token, code */
        take_size(&t, 4);
        take_bits(&t, 0, 0xCF);
        take_bits(&t, 1, 0xFF);
        break;
    case DNS: case MDNS:                            /* answer, operation, failure, number of questions */
        take_size(&t, 12);
        take_bits(&t, 2, 0xF8);
        take_bits(&t, 3, 0x0F);
        take_bytes(&t, 4, 2);
        break;
    case SSDP:
        take_size(&t, SSDP_BYTES);
        take_bytes(&t, 0, SSDP_BYTES);
        break;
    case DHCP:                                      /* operation and length of addresses, cookie */
        take_size(&t, COOKIE_AT + COOKIE_BYTES);
        take_bits(&t, 0, 0xFF);
        take_bits(&t, 2, 0xFF);
        take_bytes(&t, COOKIE_AT, COOKIE_BYTES);
        break;
    case DHCP6:
        take_size(&t, 4);
        take_bits(&t, 0, 0xFF);
        break;
    default:                                        /* TLS: version, whether a message has room, its type */
        take_size(&t, 6);
        take_bits(&t, 1, 0xFF);
        take(&t, size >= 5 ? MIN(u16(payload + 3), 4) : 0);
        take_bits(&t, 5, 0xFF);
    }
    return (int32_t)(t.to - to);
}

/* ---- memory ---- */

heads_t *kw_heads_new(uint64_t seed) {
    heads_t *h = calloc(1, sizeof *h);
    if (h) h->seed = seed;
    return h;
}

void kw_heads_free(heads_t *h) { free(h); }

static uint64_t hash_of(const heads_t *h, const head_t *head) {
    uint64_t found = mix(h->seed + head->size), word;
    for (int at = 0; at < head->size; at += 8) {
        memcpy(&word, head->bytes + at, 8);
        found = mix(found + word);
    }
    return found;
}

int32_t kw_heads_find(heads_t *h, int32_t kind, const uint8_t *payload, int64_t size) {
    head_t *a = &h->asked;
    memset(a->bytes, 0, sizeof a->bytes);           /* the last word of the hash is filled up with zeros */
    a->size = (uint8_t)kw_head(kind, payload, size, a->bytes);
    a->hash = hash_of(h, a);
    for (const head_t *k = h->kept[a->hash % SETS], *end = k + WAYS; k < end; k++)
        if (k->hash == a->hash && k->size == a->size && !memcmp(k->bytes, a->bytes, a->size)) return k->found;
    return UNKNOWN;
}

void kw_heads_keep(heads_t *h, int32_t found) {
    uint64_t set = h->asked.hash % SETS;
    h->asked.found = found;
    h->kept[set][h->oldest[set]++ % WAYS] = h->asked;
}
