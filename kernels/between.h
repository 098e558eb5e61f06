// The functions of between.cpp, for one instruction set.

// ---- root mean square

template <typename Stored>
INLINE void norm(const Norm& of, int64_t first, int64_t last) {
  const Stored *weight = static_cast<const Stored*>(of.weight), *all = static_cast<const Stored*>(of.x);
  for (int64_t row = first; row < last; ++row) {
    const Stored* x = all + row * of.width;
    Stored* y = static_cast<Stored*>(of.y) + row * of.width;
    Lanes squares = {};
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const Lanes some = load(x + i, of.width - i);
      squares += some * some;
    }
    const float inverse = 1.0f / std::sqrt(sum(squares) / static_cast<float>(of.width) + of.eps);
    of.inverse[row] = inverse;
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const int64_t many = of.width - i;
      store(y + i, load(x + i, many) * inverse * (load(weight + i, many) + of.offset), many);
    }
  }
}

template <typename Stored>
INLINE void norm_backward(const Norm& of, int64_t first, int64_t last) {
  const Stored *weight = static_cast<const Stored*>(of.weight), *all = static_cast<const Stored*>(of.x);
  for (int64_t row = first; row < last; ++row) {
    const Stored *x = all + row * of.width, *y = static_cast<const Stored*>(of.y_gradient) + row * of.width;
    Stored* gradient = static_cast<Stored*>(of.x_gradient) + row * of.width;
    const float inverse = of.inverse[row];
    Lanes along = {};
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const int64_t many = of.width - i;
      along += load(y + i, many) * (load(weight + i, many) + of.offset) * load(x + i, many);
    }
    const float back = sum(along) * inverse * inverse / static_cast<float>(of.width);
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const int64_t many = of.width - i;
      const Lanes came = load(y + i, many) * (load(weight + i, many) + of.offset);
      store(gradient + i, inverse * (came - load(x + i, many) * back), many);
    }
  }
}

TARGET void norm_rows(const Norm& of, int64_t first, int64_t last) {
  of.half ? norm<uint16_t>(of, first, last) : norm<float>(of, first, last);
}

TARGET void norm_rows_backward(const Norm& of, int64_t first, int64_t last) {
  of.half ? norm_backward<uint16_t>(of, first, last) : norm_backward<float>(of, first, last);
}

// ---- gated

template <typename Stored>
INLINE void gated(const Gated& of, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const Stored* gate = static_cast<const Stored*>(of.gate) + row * of.stride;
    const Stored* up = static_cast<const Stored*>(of.up) + row * of.stride;
    Stored* y = static_cast<Stored*>(of.y) + row * of.width;
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const int64_t many = of.width - i;
      const Lanes g = load(gate + i, many);
      store(y + i, g * sigmoid(g) * load(up + i, many), many);
    }
  }
}

template <typename Stored>
INLINE void gated_backward(const Gated& of, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const Stored* gate = static_cast<const Stored*>(of.gate) + row * of.stride;
    const Stored* up = static_cast<const Stored*>(of.up) + row * of.stride;
    const Stored* y = static_cast<const Stored*>(of.y_gradient) + row * of.width;
    Stored* gate_gradient = static_cast<Stored*>(of.gate_gradient) + row * of.stride;
    Stored* up_gradient = static_cast<Stored*>(of.up_gradient) + row * of.stride;
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const int64_t many = of.width - i;
      const Lanes g = load(gate + i, many), came = load(y + i, many), s = sigmoid(g), silu = g * s;
      store(up_gradient + i, came * silu, many);
      store(gate_gradient + i, came * load(up + i, many) * (s + silu * (1.0f - s)), many);
    }
  }
}

TARGET void gated_rows(const Gated& of, int64_t first, int64_t last) {
  of.half ? gated<uint16_t>(of, first, last) : gated<float>(of, first, last);
}

TARGET void gated_rows_backward(const Gated& of, int64_t first, int64_t last) {
  of.half ? gated_backward<uint16_t>(of, first, last) : gated_backward<float>(of, first, last);
}

// ---- combined

template <typename Stored>
INLINE void combined(const Combined& of, int64_t first, int64_t last) {
  const Stored *x = static_cast<const Stored*>(of.x), *weight = static_cast<const Stored*>(of.weight);
  for (int64_t row = first; row < last; ++row) {
    Stored* y = static_cast<Stored*>(of.y) + row * of.width;
    for (int64_t i = 0; i < of.width; i += kLanes) {
      const int64_t many = of.width - i;
      Lanes total = {};
      for (int64_t k = row * of.chosen; k < (row + 1) * of.chosen; ++k) {
        const Lanes here = load(x + of.place[k] * of.width + i, many);
        total += weight == nullptr ? here : here * single(weight + k);
      }
      store(y + i, total, many);
    }
  }
}

template <typename Stored>
INLINE void combined_backward(const Combined& of, int64_t first, int64_t last) {
  const Stored *x = static_cast<const Stored*>(of.x), *weight = static_cast<const Stored*>(of.weight);
  for (int64_t row = first; row < last; ++row) {
    const Stored* y = static_cast<const Stored*>(of.y_gradient) + row * of.width;
    for (int64_t k = row * of.chosen; k < (row + 1) * of.chosen; ++k) {
      Stored* gradient = static_cast<Stored*>(of.x_gradient) + of.place[k] * of.width;
      const Stored* from = x + of.place[k] * of.width;
      const float scale = single(weight + k);
      Lanes slope = {};
      for (int64_t i = 0; i < of.width; i += kLanes) {
        const int64_t many = of.width - i;
        const Lanes came = load(y + i, many);
        slope += came * load(from + i, many);
        store(gradient + i, came * scale, many);
      }
      const Lanes total = Lanes{} + sum(slope);
      store(static_cast<Stored*>(of.weight_gradient) + k, total, 1);
    }
  }
}

TARGET void combined_rows(const Combined& of, int64_t first, int64_t last) {
  of.half ? combined<uint16_t>(of, first, last) : combined<float>(of, first, last);
}

TARGET void combined_rows_backward(const Combined& of, int64_t first, int64_t last) {
  of.half ? combined_backward<uint16_t>(of, first, last) : combined_backward<float>(of, first, last);
}

// ---- attention

INLINE int64_t blocks(int64_t values) { return (values + kLanes - 1) / kLanes; }

// What one row's heads are computed in: float32, each token's values or each value's tokens padded to whole lanes.
struct Room {
  explicit Room(int64_t tokens, int64_t dim)
      : across(blocks(dim) * kLanes), down(blocks(tokens) * kLanes), memory(4 * tokens * across + 2 * dim * down + 5 * (across + down)) {
    float* next = memory.data();
    for (float** part : {&keys, &values, &keys_gradient, &values_gradient}) *part = next, next += tokens * across;
    for (float** part : {&keys_across, &values_across}) *part = next, next += dim * down;
    for (float** part : {&query, &came, &y}) *part = next, next += across;
    for (float** part : {&chances, &slopes}) *part = next, next += down;
  }
  int64_t across, down;
  std::vector<float> memory;
  float *keys, *values, *keys_gradient, *values_gradient, *keys_across, *values_across, *query, *came, *y, *chances, *slopes;
};

template <typename Stored>
INLINE void spread(const Stored* from, float* to, int64_t dim) {
  for (int64_t i = 0; i < dim; i += kLanes) store(to + i, load(from + i, dim - i));
}

template <typename Stored>
INLINE void put_back(const float* from, Stored* to, int64_t dim) {
  for (int64_t i = 0; i < dim; i += kLanes) store(to + i, load(from + i), dim - i);
}

// to[j] = sum over d of x[d] * across[d][j] for whole lanes of tokens from block `first` to block `last`.
INLINE void against(const float* x, const float* across, int64_t dim, int64_t down, int64_t first, int64_t last, float* to) {
  for (int64_t b = first; b <= last; ++b) {
    Lanes sums[4] = {};
    int64_t d = 0;
    for (; d + 4 <= dim; d += 4) {
      for (int s = 0; s < 4; ++s) sums[s] += x[d + s] * load(across + (d + s) * down + b * kLanes);
    }
    for (; d < dim; ++d) sums[0] += x[d] * load(across + d * down + b * kLanes);
    store(to + b * kLanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

// to = sum over tokens j of weight[j] * rows[j].
INLINE void mix(const float* weight, const float* rows, int64_t across, int64_t first, int64_t last, float* to) {
  for (int64_t i = 0; i < across; i += kLanes) {
    Lanes sums[2] = {};
    int64_t j = first;
    for (; j + 1 <= last; j += 2) {
      sums[0] += weight[j] * load(rows + j * across + i);
      sums[1] += weight[j + 1] * load(rows + (j + 1) * across + i);
    }
    if (j == last) sums[0] += weight[j] * load(rows + j * across + i);
    store(to + i, sums[0] + sums[1]);
  }
}

// Tokens that token i looks at, and the exponents of what it finds there less `most`; others zero.
INLINE Lanes looked(Lanes scores, int64_t block, int64_t first, int64_t i, float most) {
  Ints token;
  for (int l = 0; l < kLanes; ++l) token[l] = static_cast<int32_t>(block * kLanes) + l;
  const Lanes chances = exponential(scores - most);
  const Ints seen = (token >= static_cast<int32_t>(first)) & (token <= static_cast<int32_t>(i));
  return seen ? chances : Lanes{};
}

template <typename Stored>
INLINE void take_row(const Attention& of, Room& room, int64_t start, int64_t length, int64_t group, bool both) {
  const Stored *keys = static_cast<const Stored*>(of.keys), *values = static_cast<const Stored*>(of.values);
  for (int64_t j = 0; j < length; ++j) {
    const int64_t at = ((start + j) * of.shared + group) * of.dim;
    spread(keys + at, room.keys + j * room.across, of.dim);
    spread(values + at, room.values + j * room.across, of.dim);
  }
  for (int64_t d = 0; d < of.dim; ++d) {
    for (int64_t j = 0; j < length; ++j) room.keys_across[d * room.down + j] = room.keys[j * room.across + d];
    if (!both) continue;
    for (int64_t j = 0; j < length; ++j) room.values_across[d * room.down + j] = room.values[j * room.across + d];
  }
}

template <typename Stored>
INLINE void attend(const Attention& of, int64_t begin, int64_t end) {
  const int64_t each = of.heads / of.shared;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / of.shared, group = item % of.shared;
    const int64_t start = of.start[row], length = of.start[row + 1] - start;
    Room room(length, of.dim);
    take_row<Stored>(of, room, start, length, group, false);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t first = std::max<int64_t>(0, i + 1 - of.window);
      for (int64_t head = group * each; head < (group + 1) * each; ++head) {
        const int64_t at = (start + i) * of.heads + head;
        spread(static_cast<const Stored*>(of.query) + at * of.dim, room.query, of.dim);
        for (int64_t d = 0; d < of.dim; ++d) room.query[d] *= of.scale;
        against(room.query, room.keys_across, of.dim, room.down, first / kLanes, i / kLanes, room.chances);
        float most = room.chances[first];
        for (int64_t j = first + 1; j <= i; ++j) most = std::max(most, room.chances[j]);
        Lanes total = {};
        for (int64_t b = first / kLanes; b <= i / kLanes; ++b) {
          const Lanes chances = looked(load(room.chances + b * kLanes), b, first, i, most);
          total += chances;
          store(room.chances + b * kLanes, chances);
        }
        const float all = sum(total);
        of.normaliser[at] = most + std::log(all);
        mix(room.chances, room.values, room.across, first, i, room.y);
        for (int64_t d = 0; d < room.across; d += kLanes) store(room.y + d, load(room.y + d) * (1.0f / all));
        put_back(room.y, static_cast<Stored*>(of.y) + at * of.dim, of.dim);
      }
    }
  }
}

template <typename Stored>
INLINE void attend_backward(const Attention& of, int64_t begin, int64_t end) {
  const int64_t each = of.heads / of.shared;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / of.shared, group = item % of.shared;
    const int64_t start = of.start[row], length = of.start[row + 1] - start;
    Room room(length, of.dim);
    take_row<Stored>(of, room, start, length, group, true);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t first = std::max<int64_t>(0, i + 1 - of.window);
      const int64_t from = first / kLanes, to = i / kLanes;
      for (int64_t head = group * each; head < (group + 1) * each; ++head) {
        const int64_t at = (start + i) * of.heads + head;
        spread(static_cast<const Stored*>(of.query) + at * of.dim, room.query, of.dim);
        for (int64_t d = 0; d < of.dim; ++d) room.query[d] *= of.scale;
        spread(static_cast<const Stored*>(of.y_gradient) + at * of.dim, room.came, of.dim);
        against(room.query, room.keys_across, of.dim, room.down, from, to, room.chances);
        against(room.came, room.values_across, of.dim, room.down, from, to, room.slopes);
        Lanes total = {};
        for (int64_t b = from; b <= to; ++b) {
          const Lanes chances = looked(load(room.chances + b * kLanes), b, first, i, of.normaliser[at]);
          total += chances * load(room.slopes + b * kLanes);
          store(room.chances + b * kLanes, chances);
        }
        const float mean = sum(total);
        for (int64_t b = from; b <= to; ++b) {
          const Lanes slopes = load(room.chances + b * kLanes) * (load(room.slopes + b * kLanes) - mean);
          store(room.slopes + b * kLanes, slopes);
        }
        mix(room.slopes, room.keys, room.across, first, i, room.y);
        for (int64_t d = 0; d < room.across; d += kLanes) store(room.y + d, load(room.y + d) * of.scale);
        put_back(room.y, static_cast<Stored*>(of.query_gradient) + at * of.dim, of.dim);
        for (int64_t d = 0; d < room.across; d += kLanes) {
          const Lanes query = load(room.query + d), came = load(room.came + d);
          for (int64_t j = first; j <= i; ++j) {
            float *key = room.keys_gradient + j * room.across + d, *value = room.values_gradient + j * room.across + d;
            store(key, load(key) + room.slopes[j] * query);
            store(value, load(value) + room.chances[j] * came);
          }
        }
      }
    }
    for (int64_t j = 0; j < length; ++j) {
      const int64_t at = ((start + j) * of.shared + group) * of.dim;
      put_back(room.keys_gradient + j * room.across, static_cast<Stored*>(of.keys_gradient) + at, of.dim);
      put_back(room.values_gradient + j * room.across, static_cast<Stored*>(of.values_gradient) + at, of.dim);
    }
  }
}

TARGET void attend_rows(const Attention& of, int64_t first, int64_t last) {
  of.half ? attend<uint16_t>(of, first, last) : attend<float>(of, first, last);
}

TARGET void attend_rows_backward(const Attention& of, int64_t first, int64_t last) {
  of.half ? attend_backward<uint16_t>(of, first, last) : attend_backward<float>(of, first, last);
}
