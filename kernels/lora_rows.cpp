// Adapters of rows that are being answered: out += scale * B A x, each row its own A and B.
//
// A step reads every adapter once and computes two operations per value it reads, so all that counts is how fast memory
// streams: an adapter lies in the order in which it is read, a row is on one core, and a value has 16 bits where the
// other 16 are zero. Sums are float32 and stay in registers; a token's result does not depend on the others.

#include <cstdint>

extern "C" {

// Tokens that use one adapter, `tokens` of them from token `first`. `adapter`: its values, float32, or bfloat16 where
// `half`; null: the base alone.
struct Run {
  const void* adapter;
  int64_t first, tokens;
  int32_t half;
};

struct Runs {
  int64_t count;
  const Run* runs;
  int32_t threads;
};

// A target of the adapters. Targets that read the same x have their A's beside each other, [inner, ranks], `a` values
// from an adapter's start; this one's are the `rank` columns from `first`. `ranks` is a multiple of 16: columns that
// belong to nobody are zero. B is `b` values from the start, in blocks of 64 columns, [ceil(outer / 64), rank, 64].
// In bfloat16, `inner` and `rank` are even, and two rows of A or B lie in one, value by value in turns.
// `z` is [tokens, ranks], of all targets that read x.
struct Target {
  int64_t inner, ranks, a, first, rank, outer, b;
  float* z;
  float scale;
};
}

constexpr int64_t kWorthAThread = 1 << 14;  // values read: telling the others costs as much as fewer

#define KERNELS "lora_rows.h"
#include "sets.h"

// x is [tokens, inner], out [tokens, outer], without gaps. `fresh`: x is new, `z` is to be filled.
extern "C" void stillhouse_lora_rows(const Runs* all, const Target* to, const float* x, float* out, int32_t fresh) {
  const int64_t reads = all->count * ((fresh ? to->ranks * to->inner : 0) + to->rank * to->outer);
#pragma omp parallel for schedule(static, 1) num_threads(all->threads) \
    if (all->count > 1 && all->threads > 1 && reads > kWorthAThread)
  for (int64_t n = 0; n < all->count; ++n) {
    if (all->runs[n].adapter != nullptr) BEST(add_run)(*to, all->runs[n], x, out, fresh);
  }
}
