// The two transforms of Winograd's F(2 x 2, 3 x 3) around its matrix products; fairtat/engines/compiled/winograd.py has
// the equation. Each is made in one dimension, then in the other, over a block of channels at a time.
#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {

namespace {

constexpr int64_t kChannels = 64;  // what lies between the two dimensions stays in the first cache

alignas(64) const float kZeros[kChannels] = {};

struct Block {
  float entries[4][4][kChannels];
};

// B^T d, for one column of four.
void input_transform(const float* d0, const float* d1, const float* d2, const float* d3, float* b0, float* b1,
                     float* b2, float* b3, int64_t count) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const float p = d0[c], q = d1[c], r = d2[c], s = d3[c];
    b0[c] = p - r;
    b1[c] = q + r;
    b2[c] = r - q;
    b3[c] = q - s;
  }
}

// A^T m, for one column of four.
void output_transform(const float* m0, const float* m1, const float* m2, const float* m3, float* a0, float* a1,
                      int64_t count) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const float p = m0[c], q = m1[c], r = m2[c], s = m3[c];
    a0[c] = p + q + r;
    a1[c] = q - r - s;
  }
}

}  // namespace

void winograd_tiles(const WinogradArgs& a) {
  const int64_t lines = a.n * a.rows, plane = lines * a.columns * a.channels;
  const int team = team_size(a.threads, 16 * plane, lines);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t line = 0; line < lines; ++line) {
    const float* const sample = a.image + line / a.rows * a.height * a.width * a.channels;
    const int64_t top = 2 * (line % a.rows) - a.pad_top;
    for (int64_t column = 0; column < a.columns; ++column) {
      const int64_t left = 2 * column - a.pad_left;
      float* const out = a.tiles + (line * a.columns + column) * a.channels;
      for (int64_t begin = 0; begin < a.channels; begin += kChannels) {
        const int64_t count = min_of(kChannels, a.channels - begin);
        const float* pixels[4][4];
        for (int64_t i = 0; i < 4; ++i) {
          for (int64_t j = 0; j < 4; ++j) {
            const int64_t y = top + i, x = left + j;
            const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
            pixels[i][j] = inside ? sample + (y * a.width + x) * a.channels + begin : kZeros;
          }
        }
        Block half;
        auto& t = half.entries;
        for (int j = 0; j < 4; ++j) {
          input_transform(pixels[0][j], pixels[1][j], pixels[2][j], pixels[3][j], t[0][j], t[1][j], t[2][j], t[3][j],
                          count);
        }
        for (int i = 0; i < 4; ++i) {
          float* const entry = out + 4 * i * plane + begin;
          input_transform(t[i][0], t[i][1], t[i][2], t[i][3], entry, entry + plane, entry + 2 * plane,
                          entry + 3 * plane, count);
        }
      }
    }
  }
}

void winograd_image(const WinogradArgs& a) {
  const int64_t lines = a.n * a.rows, plane = lines * a.columns * a.channels;
  const int team = team_size(a.threads, 16 * plane, lines);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t line = 0; line < lines; ++line) {
    float* const sample = a.image_out + line / a.rows * a.height * a.width * a.channels;
    const int64_t top = 2 * (line % a.rows);
    for (int64_t column = 0; column < a.columns; ++column) {
      const int64_t left = 2 * column;
      const float* const in = a.tiles + (line * a.columns + column) * a.channels;
      for (int64_t begin = 0; begin < a.channels; begin += kChannels) {
        const int64_t count = min_of(kChannels, a.channels - begin);
        float beyond[kChannels];  // takes what an odd edge has no room for
        float* pixels[2][2];
        for (int64_t i = 0; i < 2; ++i) {
          for (int64_t j = 0; j < 2; ++j) {
            const bool inside = top + i < a.height && left + j < a.width;
            pixels[i][j] = inside ? sample + ((top + i) * a.width + left + j) * a.channels + begin : beyond;
          }
        }
        Block half;
        auto& t = half.entries;
        for (int j = 0; j < 4; ++j) {
          const float* const entry = in + j * plane + begin;
          output_transform(entry, entry + 4 * plane, entry + 8 * plane, entry + 12 * plane, t[0][j], t[1][j], count);
        }
        for (int i = 0; i < 2; ++i) {
          output_transform(t[i][0], t[i][1], t[i][2], t[i][3], pixels[i][0], pixels[i][1], count);
        }
      }
    }
  }
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
