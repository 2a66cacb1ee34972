/* The windows of initiators, for the meter. */
#ifndef KW_WINDOWS_H
#define KW_WINDOWS_H
#include "table.h"

enum { N_OPENED = 7 };

typedef struct windows windows_t;

windows_t *kw_windows_new(int32_t max_initiators, int32_t max_values, int32_t saturation, int64_t most_counted,
                          int64_t window_us, uint64_t seed, const int64_t *weights, int64_t n_weights);
void kw_windows_free(windows_t *w);
int32_t kw_windows_open(windows_t *w, const keyed_t *flow, int swapped, int64_t clock, int64_t number, double *opened);
void kw_windows_answer(windows_t *w, int32_t slot, int64_t number);
void kw_windows_clear(windows_t *w);
int64_t kw_windows_wanted(const windows_t *w);
void kw_windows_weights(windows_t *w, const int64_t *weights, int64_t n);
int64_t kw_windows_stored(const windows_t *w);
int64_t kw_windows_evicted(const windows_t *w);

#endif
