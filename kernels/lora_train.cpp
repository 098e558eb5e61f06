// Adapters that are being trained: out += scale * B A x and its gradients, rows of several adapters beside each other.
//
// The products have a rank of 16 on one side, for which libraries of matrix products are not made, and rows of other
// adapters must not meet. Here eight rows at a time of one adapter stay in the first cache for all products they are in.
// x, out and their gradients are float32 or bfloat16 (`half`); adapters, their gradients and all sums are float32.

#include <algorithm>
#include <cstdint>
#include <vector>

extern "C" {

// Rows of x `[rows, inner]`, out `[rows, outer]`; row t is of adapter[t], -1: of none, so nothing is added. Adapter n's A is
// [rank, inner], the n-th of `a`, its B the n-th of `b`, of which value [r][o] is r * b_rank + o * b_outer from the
// start. `z` is [rows, rank], A x. In the backward pass `gradient` comes in instead of out; `x_gradient` may be null;
// a_gradient and b_gradient are laid out as a and b, once for each thread, of `adapters`, and are added to.
struct Adapted {
  int64_t rows, adapters, inner, rank, outer, b_rank, b_outer;
  const int64_t* adapter;
  const void* x;
  const float *a, *b;
  void* out;
  float* z;
  const void* gradient;
  void* x_gradient;
  float *a_gradient, *b_gradient, scale;
  int32_t half, threads;
};
}

#define KERNELS "lora_train.h"
#include "sets.h"

extern "C" void stillhouse_adapted(const Adapted* of) {
  in_shares(of->rows, of->threads, [of](int64_t first, int64_t last, int64_t share) { BEST(adapt_rows)(*of, first, last, share); });
}

extern "C" void stillhouse_adapted_backward(const Adapted* of) {
  in_shares(of->rows, of->threads, [of](int64_t first, int64_t last, int64_t share) {
    BEST(adapt_rows_backward)(*of, first, last, share);
  });
}
