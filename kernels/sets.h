// Kernels compiled once for each instruction set, the best one the processor has chosen when they are called.
//
// A file of kernels defines its structures, then KERNELS, the header with its functions, and includes this one: they are
// in a namespace for each set, with `lanes.h` for that set before them. `BEST(name)` is the function `name` of the set to
// use. A set is a compiler's word for what may be used (TARGET), how many float32 a register holds (LANES) and how many
// registers there are (REGISTERS): vectors wider than a register live in memory, which costs five times the time.

#include <cstdint>
#include <cstring>

#define ALWAYS __attribute__((always_inline))
#define INLINE inline ALWAYS

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define SET avx512
#define TARGET __attribute__((noinline, target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define LANES 16
#define REGISTERS 32
#include "set.h"
#define SET avx2
#define TARGET __attribute__((noinline, target("avx2,fma")))
#define LANES 8
#define REGISTERS 16
#include "set.h"
#endif

#define SET any
#define TARGET __attribute__((noinline))
#define LANES 4
#ifdef __aarch64__
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#include "set.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
// 0: any, 1: avx2, 2: avx512. Who sets it lower gets the lesser ones (tests do); never higher than it was.
extern "C" int32_t stillhouse_set;
#define BEST(name) (stillhouse_set == 2 ? avx512::name : stillhouse_set == 1 ? avx2::name : any::name)
#else
#define BEST(name) any::name
#endif

namespace {

// `work(first, last, share)` over shares of `count`, one for each thread.
template <typename Work>
void in_shares(int64_t count, int32_t threads, const Work& work) {
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int32_t share = 0; share < threads; ++share) work(count * share / threads, count * (share + 1) / threads, share);
}

}  // namespace
