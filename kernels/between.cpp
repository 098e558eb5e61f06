// What lies between the matrix products of a network in training, forward and backward: each in one pass over memory.
//
// torch starts an operator for every sign in a formula, and each reads and writes all tokens; of a small network's step
// that is more than half. Values are float32 or bfloat16 (`half`), every sum is float32, and a row's result does not depend
// on the other rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

extern "C" {

// y = x / rms(x) * (weight + offset) over rows of `width`; `inverse` is 1 / rms(x) of each row. In the backward pass
// `y_gradient` comes in and `x_gradient` goes out.
struct Norm {
  int64_t rows, width;
  const void *x, *weight;
  void* y;
  const void* y_gradient;
  void* x_gradient;
  float *inverse, eps, offset;
  int32_t half, threads;
};

// y = silu(gate) * up: rows of `width` values, those of gate and up `stride` apart, of y `width`. In the backward pass
// `y_gradient` comes in; gradients of gate and up are `stride` apart too.
struct Gated {
  int64_t rows, width, stride;
  const void *gate, *up;
  void* y;
  const void* y_gradient;
  void *gate_gradient, *up_gradient;
  int32_t half, threads;
};

// y[n] = sum over k of weight[n][k] * x[place[n][k]], rows of `width`; without `weight` the sum alone. In the backward
// pass `y_gradient` comes in; `x_gradient` is zero where no place is.
struct Combined {
  int64_t rows, chosen, width;
  const int64_t* place;
  const void *x, *weight;
  void* y;
  const void* y_gradient;
  void *x_gradient, *weight_gradient;
  int32_t half, threads;
};

// Causal attention within rows of tokens that lie one after the other, row r from start[r] to start[r + 1]: query and y
// [tokens, heads, dim], keys and values [tokens, shared, dim]; `window` tokens back at most. `normaliser` [tokens, heads]
// is the logarithm of the sum of exponents. In the backward pass `y_gradient` comes in, the others go out.
struct Attention {
  int64_t rows, heads, shared, dim, window;
  const int64_t* start;
  const void *query, *keys, *values;
  void* y;
  const void* y_gradient;
  void *query_gradient, *keys_gradient, *values_gradient;
  float *normaliser, scale;
  int32_t half, threads;
};
}

#define KERNELS "between.h"
#include "sets.h"

#define EXPORT(name, Of, count, rows)                                                                        \
  extern "C" void stillhouse_##name(const Of* of) {                                                          \
    in_shares(count, of->threads, [of](int64_t first, int64_t last, int64_t) { BEST(rows)(*of, first, last); }); \
  }

EXPORT(norm, Norm, of->rows, norm_rows)
EXPORT(norm_backward, Norm, of->rows, norm_rows_backward)
EXPORT(gated, Gated, of->rows, gated_rows)
EXPORT(gated_backward, Gated, of->rows, gated_rows_backward)
EXPORT(combined, Combined, of->rows, combined_rows)
EXPORT(combined_backward, Combined, of->rows, combined_rows_backward)
EXPORT(attention, Attention, of->rows * of->shared, attend_rows)
EXPORT(attention_backward, Attention, of->rows * of->shared, attend_rows_backward)

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
static int32_t best_set() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return wide ? 2 : 1;
}

int32_t stillhouse_set = best_set();
#else
extern "C" {
int32_t stillhouse_set = 0;
}
#endif

// Of all kernels' calls and structures; stillhouse/compute/kernels.py expects the same number.
extern "C" int32_t stillhouse_version() { return 2; }
