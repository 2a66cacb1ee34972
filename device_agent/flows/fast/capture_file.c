/* The walk from record to record of a classic pcap file, for device_agent/capture/mapped.py. */
#include "bytes.h"
#include "table.h"

#define MOST_CAPTURED 262144

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
        if (h[2] > MOST_CAPTURED || here + 16 + (int64_t)h[2] > length) break;
        int64_t kept = MIN((int64_t)h[2], snap);
        memcpy(frames + filled, data + here + 16, (size_t)kept);
        filled += kept;
        times[n] = (int64_t)h[0] * SECOND + h[1] / (uint32_t)per_us;
        wire[n] = (int32_t)MIN(MAX((int64_t)h[3], kept), INT32_MAX);
        offsets[++n] = filled;
        here += 16 + h[2];
    }
    *at = here;
    return n;
}
