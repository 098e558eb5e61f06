// Adapters of rows that are being answered: out += scale * B A x, each row its own A and B.
//
// A step reads every adapter once and computes two operations per value it reads, so all that counts is how fast memory
// streams: an adapter lies in the order in which it is read, a row is on one core, and a value has 16 bits where the
// other 16 are zero. Sums are float32 and stay in registers; a token's result does not depend on the others.

#include "lanes.h"

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

namespace {

constexpr int64_t kColumns = 64;
constexpr int64_t kWorthAThread = 1 << 14;  // values read: telling the others costs as much as fewer
constexpr int64_t kAhead = 4096;            // bytes: a page of memory, where the processor's own look ahead ends

// The same columns of two rows, `length` apart, of values as they are stored.
INLINE void load(Lanes& even, Lanes& odd, const float* rows, int64_t length, int64_t column) {
  memcpy(&even, rows + column, sizeof even);
  memcpy(&odd, rows + length + column, sizeof odd);
}

INLINE void load(Lanes& even, Lanes& odd, const uint16_t* rows, int64_t, int64_t column) {
  Words both;
  memcpy(&both, rows + 2 * column, sizeof both);
  const Words high = both << 16, low = both & 0xffff0000u;  // bfloat16 is the upper half of float32
  memcpy(&even, &high, sizeof even);
  memcpy(&odd, &low, sizeof odd);
}

template <typename Stored>
INLINE void look_ahead(const Stored* here, int64_t values) {
  const char* start = reinterpret_cast<const char*>(here) + kAhead;
  for (int64_t i = 0; i < values * static_cast<int64_t>(sizeof(Stored)); i += 64) __builtin_prefetch(start + i);
}

// z[t][c] = sum over i of x[t][i] * a[i][c] for kTokens tokens and 16 * kBlocks columns of a, whose rows are `ranks`
// long; kPairs times two rows at once. The first token to use an adapter is the one that waits for memory.
template <int kTokens, int kBlocks, int kPairs, typename Stored>
INLINE void narrow_columns(const Stored* a, int64_t column, const float* x, float* z, int64_t inner, int64_t ranks) {
  Lanes sums[kTokens][kPairs][2][kBlocks] = {}, even, odd;
  int64_t i = 0;
  for (; i + 2 * kPairs <= inner; i += 2 * kPairs) {
    for (int p = 0; p < kPairs; ++p) {
      const Stored* rows = a + (i + 2 * p) * ranks;
      if (kTokens == 1) look_ahead(rows + 2 * column, 2 * kBlocks * kLanes);
      for (int b = 0; b < kBlocks; ++b) {
        load(even, odd, rows, ranks, column + b * kLanes);
        for (int t = 0; t < kTokens; ++t) {
          sums[t][p][0][b] += x[t * inner + i + 2 * p] * even;
          sums[t][p][1][b] += x[t * inner + i + 2 * p + 1] * odd;
        }
      }
    }
  }
  for (; i + 2 <= inner; i += 2) {
    for (int b = 0; b < kBlocks; ++b) {
      load(even, odd, a + i * ranks, ranks, column + b * kLanes);
      for (int t = 0; t < kTokens; ++t) {
        sums[t][0][0][b] += x[t * inner + i] * even;
        sums[t][0][1][b] += x[t * inner + i + 1] * odd;
      }
    }
  }
  for (int b = 0; i < inner && b < kBlocks; ++b) {  // one more row: never of bfloat16
    load(even, odd, a + i * ranks, 0, column + b * kLanes);
    for (int t = 0; t < kTokens; ++t) sums[t][0][0][b] += x[t * inner + i] * even;
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int b = 0; b < kBlocks; ++b) {
      for (int p = 1; p < kPairs; ++p) sums[t][0][0][b] += sums[t][p][0][b], sums[t][0][1][b] += sums[t][p][1][b];
      sums[t][0][0][b] += sums[t][0][1][b];
      memcpy(z + t * ranks + column + b * kLanes, &sums[t][0][0][b], sizeof(Lanes));
    }
  }
}

template <int kTokens, typename Stored>
INLINE void narrow(const Stored* a, const float* x, float* z, int64_t ranks, int64_t inner) {
  constexpr bool kAlone = kTokens == 1;  // then there is room for more sums that do not wait for each other
  for (int64_t column = 0; column < ranks;) {
    const int64_t left = (ranks - column) / kLanes;
    if (left == 1) {
      narrow_columns<kTokens, 1, kAlone ? 4 : 1>(a, column, x, z, inner, ranks), column += kLanes;
    } else if (left == 2 || left == 4) {
      narrow_columns<kTokens, 2, kAlone ? 2 : 1>(a, column, x, z, inner, ranks), column += 2 * kLanes;
    } else {
      narrow_columns<kTokens, 3, 1>(a, column, x, z, inner, ranks), column += 3 * kLanes;
    }
  }
}

// out[t][o] += scale * sum over r of z[t][r] * b[r][o], a block of columns at a time; rows of z are `ranks` long.
template <int kTokens, typename Stored>
INLINE void widen(const Target& to, const Stored* b, const float* z, float* out) {
  constexpr int kBlocks = kColumns / kLanes;
  for (int64_t column = 0; column < to.outer; column += kColumns, b += to.rank * kColumns) {
    Lanes sums[kTokens][kBlocks] = {}, even, odd;
    int64_t r = 0;
    for (; r + 2 <= to.rank; r += 2) {
      if (kTokens == 1) look_ahead(b + r * kColumns, 2 * kColumns);
      for (int i = 0; i < kBlocks; ++i) {
        load(even, odd, b + r * kColumns, kColumns, i * kLanes);
        for (int t = 0; t < kTokens; ++t) {
          sums[t][i] += z[t * to.ranks + r] * even;
          sums[t][i] += z[t * to.ranks + r + 1] * odd;
        }
      }
    }
    for (int i = 0; r < to.rank && i < kBlocks; ++i) {  // one more row: never of bfloat16
      load(even, odd, b + r * kColumns, 0, i * kLanes);
      for (int t = 0; t < kTokens; ++t) sums[t][i] += z[t * to.ranks + r] * even;
    }
    const int64_t here = to.outer - column;
    for (int t = 0; t < kTokens; ++t) {
      float* own = out + t * to.outer + column;
      if (here >= kColumns) {
        for (int i = 0; i < kBlocks; ++i) {
          Lanes before;
          memcpy(&before, own + i * kLanes, sizeof before);
          before += to.scale * sums[t][i];
          memcpy(own + i * kLanes, &before, sizeof before);
        }
      } else {
        float added[kColumns];
        memcpy(added, sums[t], sizeof added);
        for (int64_t o = 0; o < here; ++o) own[o] += to.scale * added[o];
      }
    }
  }
}

template <int kTokens, typename Stored>
INLINE void add_tokens(const Target& to, const Stored* adapter, const float* x, float* out, int64_t t, bool fresh) {
  float* z = to.z + t * to.ranks;
  if (fresh) narrow<kTokens>(adapter + to.a, x + t * to.inner, z, to.ranks, to.inner);
  widen<kTokens>(to, adapter + to.b, z + to.first, out + t * to.outer);
}

template <typename Stored>
INLINE void add(const Target& to, const Run& run, const float* x, float* out, bool fresh) {
  const Stored* adapter = static_cast<const Stored*>(run.adapter);
  int64_t t = run.first;
  const int64_t end = t + run.tokens;
  for (; end - t >= 4; t += 4) add_tokens<4>(to, adapter, x, out, t, fresh);
  for (; t < end; ++t) add_tokens<1>(to, adapter, x, out, t, fresh);
}

EVERY_INSTRUCTION_SET void add_run(const Target& to, const Run& run, const float* x, float* out, bool fresh) {
  if (run.half) {
    add<uint16_t>(to, run, x, out, fresh);
  } else {
    add<float>(to, run, x, out, fresh);
  }
}

}  // namespace

// x is [tokens, inner], out [tokens, outer], without gaps. `fresh`: x is new, `z` is to be filled.
extern "C" void stillhouse_lora_rows(const Runs* all, const Target* to, const float* x, float* out, int32_t fresh) {
  const int64_t reads = all->count * ((fresh ? to->ranks * to->inner : 0) + to->rank * to->outer);
#pragma omp parallel for schedule(static, 1) num_threads(all->threads) \
    if (all->count > 1 && all->threads > 1 && reads > kWorthAThread)
  for (int64_t n = 0; n < all->count; ++n) {
    if (all->runs[n].adapter != nullptr) add_run(*to, all->runs[n], x, out, fresh);
  }
}
