// The kernels as a program, so that an emulator can run them: one call of `mixture` or `linear`, arguments and tensors
// on the standard input, the result on the standard output.

#include "cpu.cpp"

#include <cstdio>
#include <memory>

static long number() {
  int64_t value;
  if (fread(&value, sizeof value, 1, stdin) != 1)
    exit(2);
  return value;
}

// A tensor: its bytes, and how many they are before them.
static void *tensor() {
  const long size = number();
  char *data = (char *)malloc(size + 1);
  if (fread(data, 1, size, stdin) != (size_t)size)
    exit(2);
  return data;
}

int main() {
  const long which = number(), set = number(), bits = number(), size = number();
  if (set > best_set())
    return 3;
  std::unique_ptr<char[]> out(new char[size]);
  if (which == 0) {
    const long kind = number(), rows = number(), k = number(), n = number();
    void *x = tensor(), *w = tensor();
    linear(set, 2, bits, kind, rows, k, 1, &n, &w, x, nullptr, nullptr, out.get(), 1);
  } else {
    const long rows = number(), top = number(), experts = number(), hidden = number(), inner = number();
    void *given[10];
    for (void *&one : given)
      one = tensor();
    mixture(set, 2, bits, rows, top, experts, hidden, inner, 7.0f, given[0], (int64_t *)given[1], given[2], given[3],
            given[4], given[5], given[6], given[7], given[8], given[9], out.get());
  }
  return fwrite(out.get(), 1, size, stdout) == (size_t)size ? 0 : 4;
}
