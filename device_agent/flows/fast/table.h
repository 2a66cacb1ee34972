/* Keyed hash tables whose slots are kept in order of age; for the flows and for the initiators. */
#ifndef KW_TABLE_H
#define KW_TABLE_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SECOND 1000000LL
#define NIL (-1)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

typedef struct { uint64_t k0, k1, x[4]; uint8_t v6; } keyed_t;

typedef struct { keyed_t key; uint64_t hash; int32_t older, newer; } node_t;

typedef struct {                                    /* keys to slots, and the slots in order of age */
    node_t *nodes;
    int32_t *index, *unused, n_unused, oldest, newest, n;
    uint32_t mask;
} table_t;

static inline uint64_t mix(uint64_t w) {
    w = (w ^ (w >> 30)) * 0xBF58476D1CE4E5B9ULL;
    w = (w ^ (w >> 27)) * 0x94D049BB133111EBULL;
    return w ^ (w >> 31);
}

static inline uint64_t hash(uint64_t seed, const keyed_t *k) {
    uint64_t h = mix(k->k0 + seed);
    if (k->v6) for (int i = 0; i < 4; i++) h = mix(h + k->x[i]);
    return mix(h + k->k1 + k->v6);
}

static inline int same(const keyed_t *a, const keyed_t *b) {
    return a->k1 == b->k1 && a->k0 == b->k0 && a->v6 == b->v6 && (!a->v6 || !memcmp(a->x, b->x, sizeof a->x));
}

static inline int table_new(table_t *t, int32_t n) {
    uint32_t size = 16;
    while (size < 2u * (uint32_t)n) size *= 2;
    t->mask = size - 1;
    t->nodes = malloc(sizeof(node_t) * n);
    t->index = malloc(sizeof(int32_t) * size);
    t->unused = malloc(sizeof(int32_t) * n);
    if (!t->nodes || !t->index || !t->unused) return 0;
    memset(t->index, 0xFF, sizeof(int32_t) * size);
    for (int32_t i = 0; i < n; i++) t->unused[i] = n - 1 - i;
    t->n_unused = n;
    t->oldest = t->newest = NIL;
    t->n = 0;
    return 1;
}

static inline void table_free(table_t *t) {
    free(t->nodes); free(t->index); free(t->unused);
}

static inline int32_t find(const table_t *t, const keyed_t *k, uint64_t h) {
    for (uint32_t i = (uint32_t)h & t->mask;; i = (i + 1) & t->mask) {
        int32_t s = t->index[i];
        if (s == NIL) return NIL;
        if (t->nodes[s].hash == h && same(&t->nodes[s].key, k)) return s;
    }
}

static inline void unlink_node(table_t *t, int32_t s) {
    node_t *n = &t->nodes[s];
    if (n->older == NIL) t->oldest = n->newer; else t->nodes[n->older].newer = n->newer;
    if (n->newer == NIL) t->newest = n->older; else t->nodes[n->newer].older = n->older;
}

static inline void append(table_t *t, int32_t s) {
    t->nodes[s].older = t->newest;
    t->nodes[s].newer = NIL;
    if (t->newest == NIL) t->oldest = s; else t->nodes[t->newest].newer = s;
    t->newest = s;
}

static inline int32_t insert(table_t *t, const keyed_t *k, uint64_t h) {
    uint32_t i = (uint32_t)h & t->mask;
    while (t->index[i] != NIL) i = (i + 1) & t->mask;
    int32_t s = t->unused[--t->n_unused];
    t->index[i] = s;
    t->nodes[s].key = *k;
    t->nodes[s].hash = h;
    append(t, s);
    t->n++;
    return s;
}

static inline void delete(table_t *t, int32_t s) {
    uint32_t i = (uint32_t)t->nodes[s].hash & t->mask;
    while (t->index[i] != s) i = (i + 1) & t->mask;
    for (uint32_t j = i;;) {                        /* close the gap, so that there are no marks of removed keys */
        j = (j + 1) & t->mask;
        if (t->index[j] == NIL) break;
        uint32_t home = (uint32_t)t->nodes[t->index[j]].hash & t->mask;
        if (((j - home) & t->mask) >= ((j - i) & t->mask)) { t->index[i] = t->index[j]; i = j; }
    }
    t->index[i] = NIL;
    unlink_node(t, s);
    t->unused[t->n_unused++] = s;
    t->n--;
}

#endif
