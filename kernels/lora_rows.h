// The functions of lora_rows.cpp, for one instruction set.

constexpr int64_t kColumns = 64;
constexpr int64_t kAhead = 4096;  // bytes: a page of memory, where the processor's own look ahead ends

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
  constexpr bool kTight = !kAlone && kRegisters < 32;
  for (int64_t column = 0; column < ranks;) {
    const int64_t left = (ranks - column) / kLanes;
    if (left == 1 || kTight) {
      narrow_columns<kTokens, 1, kAlone ? 4 : 1>(a, column, x, z, inner, ranks), column += kLanes;
    } else if (left == 2 || left == 4) {
      narrow_columns<kTokens, 2, kAlone ? 2 : 1>(a, column, x, z, inner, ranks), column += 2 * kLanes;
    } else {
      narrow_columns<kTokens, 3, 1>(a, column, x, z, inner, ranks), column += 3 * kLanes;
    }
  }
}

// out[t][o] += scale * sum over r of z[t][r] * b[r][o], a block of columns at a time, as many of them at once as there are
// registers for; rows of z are `ranks` long.
template <int kTokens, typename Stored>
INLINE void widen(const Target& to, const Stored* b, const float* z, float* out) {
  constexpr int kBlocks = kTokens == 1 ? kColumns / kLanes : kRegisters / 2 / kTokens;
  constexpr int kOnce = kBlocks * kLanes;
  static_assert(kColumns % kOnce == 0, "a block is read in equal parts");
  for (int64_t column = 0; column < to.outer; column += kOnce) {
    const Stored* rows = b + column / kColumns * to.rank * kColumns;
    const int64_t first = column % kColumns;
    Lanes sums[kTokens][kBlocks] = {}, even, odd;
    int64_t r = 0;
    for (; r + 2 <= to.rank; r += 2) {
      if (kTokens == 1) look_ahead(rows + r * kColumns, 2 * kColumns);
      for (int i = 0; i < kBlocks; ++i) {
        load(even, odd, rows + r * kColumns, kColumns, first + i * kLanes);
        for (int t = 0; t < kTokens; ++t) {
          sums[t][i] += z[t * to.ranks + r] * even;
          sums[t][i] += z[t * to.ranks + r + 1] * odd;
        }
      }
    }
    for (int i = 0; r < to.rank && i < kBlocks; ++i) {  // one more row: never of bfloat16
      load(even, odd, rows + r * kColumns, 0, first + i * kLanes);
      for (int t = 0; t < kTokens; ++t) sums[t][i] += z[t * to.ranks + r] * even;
    }
    for (int t = 0; t < kTokens; ++t) {
      float* own = out + t * to.outer + column;
      for (int i = 0; i < kBlocks; ++i) {
        const int64_t many = to.outer - column - i * kLanes;
        if (many > 0) store(own + i * kLanes, load(own + i * kLanes, many) + to.scale * sums[t][i], many);
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

TARGET void add_run(const Target& to, const Run& run, const float* x, float* out, bool fresh) {
  if (run.half) {
    add<uint16_t>(to, run, x, out, fresh);
  } else {
    add<float>(to, run, x, out, fresh);
  }
}
