// The functions of lora_train.cpp, for one instruction set.

constexpr int64_t kRows = 8;

INLINE int64_t whole(int64_t values) { return (values + kLanes - 1) / kLanes * kLanes; }

// One adapter as it is read, and what eight of its rows are computed in; padded with zeros to whole lanes.
struct Bench {
  Bench(const Adapted& of, bool back) : inner(whole(of.inner)), rank(whole(of.rank)), outer(whole(of.outer)) {
    const int64_t weights = rank * (inner + outer), each = kRows * (inner + outer + 2 * rank);
    memory.resize((back ? 3 : 2) * weights + each);
    float* next = memory.data();
    const auto take = [&next](int64_t values) { return next += values, next - values; };
    a = take(rank * inner), b = take(rank * outer);
    across = take(rank * (back ? outer : inner));
    if (back) a_gradient = take(rank * inner), b_gradient = take(rank * outer);
    x = take(kRows * inner), y = take(kRows * outer), z = take(kRows * rank), z_gradient = take(kRows * rank);
  }
  int64_t inner, rank, outer;
  std::vector<float> memory;
  float *a, *b, *across, *x, *y, *z, *z_gradient, *a_gradient = nullptr, *b_gradient = nullptr;
};

// A and B, [rank, inner] and [rank, outer], and one of them the other way round: A forward, B backward.
INLINE void lay_out(const Adapted& of, int64_t adapter, Bench& bench, bool back) {
  const float *a = of.a + adapter * of.rank * of.inner, *b = of.b + adapter * of.rank * of.outer;
  for (int64_t r = 0; r < of.rank; ++r) {
    for (int64_t i = 0; i < of.inner; ++i) bench.a[r * bench.inner + i] = a[r * of.inner + i];
    for (int64_t o = 0; o < of.outer; ++o) bench.b[r * bench.outer + o] = b[r * of.b_rank + o * of.b_outer];
  }
  if (back) {
    for (int64_t o = 0; o < of.outer; ++o) {
      for (int64_t r = 0; r < of.rank; ++r) bench.across[o * bench.rank + r] = bench.b[r * bench.outer + o];
    }
    std::fill(bench.a_gradient, bench.a_gradient + bench.rank * (bench.inner + bench.outer), 0.0f);
  } else {
    for (int64_t i = 0; i < of.inner; ++i) {
      for (int64_t r = 0; r < of.rank; ++r) bench.across[i * bench.rank + r] = bench.a[r * bench.inner + i];
    }
  }
}

// Eight rows of memory into the bench; rows that are not there are zero.
template <typename Stored>
INLINE void fetch(const void* from, int64_t first, int64_t many, int64_t width, float* to, int64_t padded) {
  for (int64_t t = 0; t < kRows; ++t) {
    const Stored* row = static_cast<const Stored*>(from) + (first + t) * width;
    for (int64_t i = 0; i < padded; i += kLanes) {
      store(to + t * padded + i, t < many ? load(row + i, width - i) : Lanes{});
    }
  }
}

// z[t][r] = scale * sum over i of x[t][i] * across[i][r].
INLINE void narrow(const float* x, const float* across, float* z, int64_t width, int64_t rank, float scale) {
  for (int64_t r = 0; r < rank; r += kLanes) {
    Lanes sums[kRows] = {};
    for (int64_t i = 0; i < width; ++i) {
      const Lanes column = load(across + i * rank + r);
      for (int t = 0; t < kRows; ++t) sums[t] += x[t * width + i] * column;
    }
    for (int t = 0; t < kRows; ++t) store(z + t * rank + r, scale * sums[t]);
  }
}

// `put(t, i, sum over r of z[t][r] * rows[r][i])`, sixteen values at a time.
template <typename Put>
INLINE void widen(const float* z, const float* rows, int64_t rank, int64_t width, int64_t used, const Put& put) {
  for (int64_t i = 0; i < width; i += kLanes) {
    Lanes sums[kRows] = {};
    for (int64_t r = 0; r < used; ++r) {
      const Lanes row = load(rows + r * width + i);
      for (int t = 0; t < kRows; ++t) sums[t] += z[t * rank + r] * row;
    }
    for (int t = 0; t < kRows; ++t) put(t, i, sums[t]);
  }
}

// to[r][i] += sum over t of z[t][r] * x[t][i].
INLINE void gather(const float* z, const float* x, float* to, int64_t rank, int64_t width) {
  for (int64_t r = 0; r < rank; r += kRows) {
    for (int64_t i = 0; i < width; i += kLanes) {
      Lanes sums[kRows];
      for (int n = 0; n < kRows; ++n) sums[n] = load(to + (r + n) * width + i);
      for (int t = 0; t < kRows; ++t) {
        const Lanes row = load(x + t * width + i);
        for (int n = 0; n < kRows; ++n) sums[n] += z[t * rank + r + n] * row;
      }
      for (int n = 0; n < kRows; ++n) store(to + (r + n) * width + i, sums[n]);
    }
  }
}

template <typename Stored>
INLINE void forward(const Adapted& of, Bench& bench, int64_t first, int64_t last) {
  for (int64_t t = first; t < last; t += kRows) {
    const int64_t many = std::min(kRows, last - t);
    fetch<Stored>(of.x, t, many, of.inner, bench.x, bench.inner);
    narrow(bench.x, bench.across, bench.z, bench.inner, bench.rank, 1.0f);
    for (int64_t row = 0; row < many; ++row) {
      for (int64_t r = 0; r < of.rank; ++r) of.z[(t + row) * of.rank + r] = bench.z[row * bench.rank + r];
    }
    widen(bench.z, bench.b, bench.rank, bench.outer, of.rank, [&](int64_t row, int64_t o, Lanes sums) ALWAYS {
      if (row >= many) return;
      Stored* out = static_cast<Stored*>(of.out) + (t + row) * of.outer + o;
      store(out, load(out, of.outer - o) + of.scale * sums, of.outer - o);
    });
  }
}

template <typename Stored>
INLINE void backward(const Adapted& of, Bench& bench, int64_t first, int64_t last) {
  for (int64_t t = first; t < last; t += kRows) {
    const int64_t many = std::min(kRows, last - t);
    fetch<Stored>(of.x, t, many, of.inner, bench.x, bench.inner);
    fetch<Stored>(of.gradient, t, many, of.outer, bench.y, bench.outer);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t r = 0; r < of.rank; ++r) {
        bench.z[row * bench.rank + r] = row < many ? of.scale * of.z[(t + row) * of.rank + r] : 0.0f;
      }
    }
    narrow(bench.y, bench.across, bench.z_gradient, bench.outer, bench.rank, of.scale);
    gather(bench.z, bench.y, bench.b_gradient, bench.rank, bench.outer);
    gather(bench.z_gradient, bench.x, bench.a_gradient, bench.rank, bench.inner);
    if (of.x_gradient == nullptr) continue;
    widen(bench.z_gradient, bench.a, bench.rank, bench.inner, of.rank, [&](int64_t row, int64_t i, Lanes sums) ALWAYS {
      if (row < many) store(static_cast<Stored*>(of.x_gradient) + (t + row) * of.inner + i, sums, of.inner - i);
    });
  }
}

// What eight rows at a time have added up goes to the adapter's own place.
INLINE void hand_in(const Adapted& of, const Bench& bench, int64_t adapter, int64_t share) {
  float* a = of.a_gradient + (share * of.adapters + adapter) * of.rank * of.inner;
  float* b = of.b_gradient + (share * of.adapters + adapter) * of.rank * of.outer;
  for (int64_t r = 0; r < of.rank; ++r) {
    for (int64_t i = 0; i < of.inner; ++i) a[r * of.inner + i] += bench.a_gradient[r * bench.inner + i];
    for (int64_t o = 0; o < of.outer; ++o) b[r * of.b_rank + o * of.b_outer] += bench.b_gradient[r * bench.outer + o];
  }
}

template <typename Stored>
INLINE void adapt(const Adapted& of, int64_t first, int64_t last, int64_t share, bool back) {
  Bench bench(of, back);
  for (int64_t start = first, end; start < last; start = end) {
    const int64_t adapter = of.adapter[start];
    for (end = start + 1; end < last && of.adapter[end] == adapter;) ++end;
    if (adapter < 0) {
      if (back && of.x_gradient != nullptr) {
        memset(static_cast<Stored*>(of.x_gradient) + start * of.inner, 0, (end - start) * of.inner * sizeof(Stored));
      }
      continue;
    }
    lay_out(of, adapter, bench, back);
    if (back) {
      backward<Stored>(of, bench, start, end);
      hand_in(of, bench, adapter, share);
    } else {
      forward<Stored>(of, bench, start, end);
    }
  }
}

TARGET void adapt_rows(const Adapted& of, int64_t first, int64_t last, int64_t share) {
  of.half ? adapt<uint16_t>(of, first, last, share, false) : adapt<float>(of, first, last, share, false);
}

TARGET void adapt_rows_backward(const Adapted& of, int64_t first, int64_t last, int64_t share) {
  of.half ? adapt<uint16_t>(of, first, last, share, true) : adapt<float>(of, first, last, share, true);
}
