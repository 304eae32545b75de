// Attention and what surrounds it, as exported. `bits` is the width of the model's type, 32 or 16.

static thread_local Buffer hearing;

template <class T> static void attend(int set, int threads, const Paged &a) {
  const Cut made = cut(a, threads);
  Buffer buffer;
  float *kept = (float *)buffer.room(made.kept * a.heads * (a.dim + 2) * sizeof(float));
  auto room = CHOSEN(set, hearing_room);
  auto kernel = CHOSEN(set, attend<T>);
  shared(threads, made.parts.size(), 1, 1, [&](long from, long to) {
    for (long n = from; n < to; n++) {
      const Part &part = made.parts[n];
      const Tile &tile = made.tiles[part.tile];
      const long floats = room(tile.rows * a.heads / a.kv_heads, part.heads, a.dim);
      kernel(a, tile, part, kept, (float *)hearing.room(floats * sizeof(float)));
    }
  });
  auto joining = CHOSEN(set, join<T>);
  shared(threads, made.joints.size() * a.heads, 16, 16, [&](long from, long to) {
    for (long n = from; n < to; n++)
      joining(a, made.joints[n / a.heads], n % a.heads, kept);
  });
}

// Writes what the rows heard. The least that a table must name is the blocks that its rows see.
EXPORT void attend(int set, int threads, int bits, const Paged *a) {
  (bits == 32 ? attend<float> : attend<bf16>)(set, threads, *a);
}

template <class T>
static void rotate(int set, int threads, long rows, long heads, long kv_heads, long dim, const void *projected,
                   const void *cos, const void *sin, const int64_t *positions, const int64_t *slots, void *q,
                   void *keys, void *values) {
  auto kernel = CHOSEN(set, rotate<T>);
  const long width = (heads + 2 * kv_heads) * dim;
  shared(threads, rows, 16, 16, [&](long from, long to) {
    for (long row = from; row < to; row++) {
      const long turn = positions[row] * (dim / 2), place = slots[row] * kv_heads * dim;
      kernel(heads, kv_heads, dim, (const T *)projected + row * width, (const T *)cos + turn, (const T *)sin + turn,
             (T *)q + row * heads * dim, (T *)keys + place, (T *)values + place);
    }
  });
}

// Rows of a projection [rows, heads + 2 kv_heads, dim]: writes q [rows, heads, dim], and keys and values into their
// slots of the pools [slots, kv_heads, dim]. cos, sin [positions, dim / 2].
EXPORT void rotate(int set, int threads, int bits, long rows, long heads, long kv_heads, long dim,
                   const void *projected, const void *cos, const void *sin, const int64_t *positions,
                   const int64_t *slots, void *q, void *keys, void *values) {
  (bits == 32 ? rotate<float> : rotate<bf16>)(set, threads, rows, heads, kv_heads, dim, projected, cos, sin,
                                              positions, slots, q, keys, values);
}

template <class T>
static void choose(int set, long rows, long experts, long top, const void *logits, int64_t *ids, void *shares) {
  auto kernel = CHOSEN(set, choose<T>);
  for (long row = 0; row < rows; row++)
    kernel(experts, top, (const T *)logits + row * experts, ids + row * top, (T *)shares + row * top);
}

// Of logits [rows, experts] the `top` largest of each row, the largest first, and the softmax over those: ids and
// shares [rows, top].
EXPORT void choose(int set, int bits, long rows, long experts, long top, const void *logits, int64_t *ids,
                   void *shares) {
  (bits == 32 ? choose<float> : choose<bf16>)(set, rows, experts, top, logits, ids, shares);
}
