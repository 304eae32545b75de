// Attention's inputs, and how its work is cut into parts. A row's context is cut by its length alone, whatever the
// threads and the other rows, so that its sums are always added in the same order; heads share no sums.

constexpr long BLOCK = 16;        // positions in a block of the pools
constexpr long TILE_ROWS = 16;    // at most so many rows of one prompt read a key together
constexpr long LEAST_BLOCKS = 16; // in a part of a single row's context
constexpr long MOST_PARTS = 16;   // of a single row's context
constexpr float LOG2_E = 1.44269504f;

// One layer's attention. keys, values [blocks, BLOCK, kv_heads, dim]; q, heard [rows, heads, dim]; sinks [heads].
// Row r is at positions[r] of sequence[r], whose logical block b is table row's column b - base[sequence[r]].
struct Paged {
  const void *q, *keys, *values, *sinks;
  void *heard;
  const int64_t *tables, *base, *positions, *sequence;
  int64_t columns, rows, heads, kv_heads, dim;
  int64_t window; // positions that a row sees, its own included; 0: all
};

// Rows of consecutive positions of one sequence, and the blocks [first, last) that any of them sees.
struct Tile {
  long row, rows, first, last;
};

// What one thread does at a time: some blocks of a tile for some key/value heads. `kept` says where its sums are
// kept until its tile's other parts are there too, -1 where it is the only one.
struct Part {
  long tile, head, heads, first, last, kept;
};

// A row whose context is in several parts: the first of their sums, and how many.
struct Joint {
  long row, kept, parts;
};

struct Cut {
  std::vector<Tile> tiles;
  std::vector<Part> parts;
  std::vector<Joint> joints;
  long kept = 0;
};

static Cut cut(const Paged &a, int threads) {
  Cut made;
  for (long row = 0, rows; row < a.rows; row += rows) {
    const int64_t at = a.positions[row];
    for (rows = 1; rows < TILE_ROWS && row + rows < a.rows; rows++)
      if (a.sequence[row + rows] != a.sequence[row] || a.positions[row + rows] != at + rows)
        break;
    const long first = a.window && at >= a.window ? (at - a.window + 1) / BLOCK : 0;
    made.tiles.push_back({row, rows, first, (long)(at + rows - 1) / BLOCK + 1});
  }
  // The longest first, so that the last ones to finish are short.
  for (long n = made.tiles.size() - 1; n >= 0; n--) {
    const Tile &tile = made.tiles[n];
    const long blocks = tile.last - tile.first;
    const long each = tile.rows > 1 ? blocks : std::max(LEAST_BLOCKS, (blocks + MOST_PARTS - 1) / MOST_PARTS);
    const long parts = (blocks + each - 1) / each;
    // A prompt's rows fill the cache by themselves. Of a single one a thread takes all heads of a block, which lie
    // side by side, unless there is too little of that to go round.
    long heads = tile.rows > 1 ? 1 : a.kv_heads;
    while (heads % 2 == 0 && (long)made.tiles.size() * parts * (a.kv_heads / heads) < 2 * threads)
      heads /= 2;
    for (long part = 0; part < parts; part++)
      for (long head = 0; head < a.kv_heads; head += heads)
        made.parts.push_back({n, head, heads, tile.first + part * each,
                              std::min(tile.last, tile.first + (part + 1) * each),
                              parts > 1 ? made.kept + part : -1});
    if (parts > 1) {
      made.joints.push_back({tile.row, made.kept, parts});
      made.kept += parts;
    }
  }
  return made;
}
