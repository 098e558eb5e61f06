// Adapters of rows that are being answered: out += scale * B A x, one token of each row, each row its own A and B.
//
// A step reads every adapter once and computes two operations per value it reads, so all that counts is how fast memory
// streams: one pass over A, one over B, every row on one core. float32; a row's result does not depend on the other rows.
// The loops are plain C++: the compiler makes a version for each instruction set and picks one when the library loads.

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define EVERY_INSTRUCTION_SET __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_INSTRUCTION_SET
#endif

namespace {

constexpr int64_t kWorthAThread = 1 << 20;  // values read: waking the others costs as much as fewer
constexpr int64_t kBlock = 128;             // values between two looks ahead
constexpr int64_t kAhead = 1024;            // values: a page of memory, where the processor's own look ahead ends
constexpr int64_t kLine = 16;               // values of a cache line

inline void look_ahead(const float* block) {
  for (int64_t i = 0; i < kBlock; i += kLine) __builtin_prefetch(block + kAhead + i);
}

// z[r] = sum over i of a[r][i] * x[i]; a is [ranks, inner].
EVERY_INSTRUCTION_SET void narrow(const float* a, const float* x, float* z, int64_t ranks, int64_t inner) {
  for (int64_t r = 0; r < ranks; ++r, a += inner) {
    float sum = 0;
    for (int64_t start = 0; start < inner; start += kBlock) {
      const int64_t end = start + kBlock < inner ? start + kBlock : inner;
      look_ahead(a + start);
#pragma omp simd reduction(+ : sum)
      for (int64_t i = start; i < end; ++i) sum += a[i] * x[i];
    }
    z[r] = sum;
  }
}

// out[o] += scale * sum over r of z[r] * b[r][o]; b is [rank, outer].
EVERY_INSTRUCTION_SET void widen(const float* b, const float* z, float* out, int64_t rank, int64_t outer, float scale) {
  for (int64_t r = 0; r < rank; ++r, b += outer) {
    const float scaled = scale * z[r];
    for (int64_t start = 0; start < outer; start += kBlock) {
      const int64_t end = start + kBlock < outer ? start + kBlock : outer;
      look_ahead(b + start);
#pragma omp simd
      for (int64_t o = start; o < end; ++o) out[o] += scaled * b[o];
    }
  }
}

}  // namespace

// Targets that read the same x have their A's on top of each other in `a` [rows, ranks, inner]; the first of them to
// run sets `fresh` and fills `z` [rows, ranks]. This target's are the `rank` from `first`; its `b` is [rows, rank,
// outer]. Rows of `x` and `out` are `x_stride` and `out_stride` values apart.
extern "C" void stillhouse_lora_rows(float* out, int64_t out_stride, const float* x, int64_t x_stride, const float* a,
                                     const float* b, float* z, int64_t rows, int64_t inner, int64_t ranks, int64_t first,
                                     int64_t rank, int64_t outer, int32_t fresh, float scale, int32_t threads) {
  const int64_t reads = rows * ((fresh ? ranks * inner : 0) + rank * outer);
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 1 && threads > 1 && reads > kWorthAThread)
  for (int64_t n = 0; n < rows; ++n) {
    if (fresh) narrow(a + n * ranks * inner, x + n * x_stride, z + n * ranks, ranks, inner);
    widen(b + n * rank * outer, z + n * ranks + first, out + n * out_stride, rank, outer, scale);
  }
}
