/* Numbers from bytes, in the order of networks, and the other one. */
#ifndef KW_BYTES_H
#define KW_BYTES_H
#include <stdint.h>

static inline uint32_t u16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t u32(const uint8_t *p) { return u16(p) << 16 | u16(p + 2); }
static inline uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) << 32 | u32(p + 4); }
static inline uint32_t little32(const uint8_t *p) {
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

static inline void put16(uint8_t *p, uint32_t value) { p[0] = (uint8_t)(value >> 8); p[1] = (uint8_t)value; }
static inline void put32(uint8_t *p, uint32_t value) { put16(p, value >> 16); put16(p + 2, value); }
static inline void put64(uint8_t *p, uint64_t value) { put32(p, (uint32_t)(value >> 32)); put32(p + 4, (uint32_t)value); }

#endif
