/* Reads words, many sums at once so that no addition waits for another; what the compiler makes of this is
   wide loads and nothing else that takes time. */
#include <stddef.h>
#include <stdint.h>

enum { LANES = 64 };

uint64_t read_words(const uint64_t *words, size_t count) {
    uint64_t sums[LANES] = {0}, total = 0;
    for (size_t at = 0; at + LANES <= count; at += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += words[at + lane];
    for (size_t lane = 0; lane < LANES; lane++)
        total += sums[lane];
    return total;
}
