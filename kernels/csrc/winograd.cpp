// 3x3 convolutions of stride 1 on a CPU by Winograd's method F(4x4, 3x3): 36 multiplications where the definition has
// 144. Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv 1509.09308), section 4.3, has the three
// transforms. Here a thread takes a run of tiles, transforms them, multiplies by the transformed weights and transforms
// back before the next: what lies between never leaves its cache, where a library's general convolution, or the same in
// tensor operations, is bound by memory. What the next run reads is fetched while this one is multiplied.
//
// Built by build.py, called by winograd.py. No torch here: plain pointers, and OpenMP, whose threads are torch's own.
// Pictures are [picture][row][pixel][channel], channels dense; strides are counted in floats.

#include "exponential.h"
#include "product.h"

namespace {

constexpr int POINTS = 36, SIDE = 6, OUT = 4;
constexpr int LINE = 64;  // bytes of the cache

// The points in which polynomials are multiplied are 0, +-A, +-B and infinity. Of products of bfloat16s +-3/4 and +-3/2 leave
// four decibels more than the +-1 and +-2 of the paper's example (bundled model, SPAN), as much as bfloat16s without the
// method; of floats no less. All constants are exact.
constexpr float A = 0.75f, B = 1.5f, A2 = A * A, B2 = B * B;

// y = B' x for six values `step` apart.
template <class V> inline void into(const V* x, int step, V* y) {
    const V a = x[4 * step] - B2 * x[2 * step], b = x[3 * step] - B2 * x[step];
    const V c = x[4 * step] - A2 * x[2 * step], d = x[3 * step] - A2 * x[step];
    y[0] = A2 * B2 * x[0] - (A2 + B2) * x[2 * step] + x[4 * step];
    y[1] = a + A * b;
    y[2] = a - A * b;
    y[3] = c + B * d;
    y[4] = c - B * d;
    y[5] = A2 * B2 * x[step] - (A2 + B2) * x[3 * step] + x[5 * step];
}

// y = A' x for six values `step` apart.
template <class V> inline void out_of(const V* x, int step, V* y) {
    const V a = x[step] + x[2 * step], b = x[step] - x[2 * step];
    const V c = x[3 * step] + x[4 * step], d = x[3 * step] - x[4 * step];
    y[0] = x[0] + a + c;
    y[1] = A * b + B * d;
    y[2] = A2 * a + B2 * c;
    y[3] = A2 * A * b + B2 * B * d + x[5 * step];
}

}  // namespace

extern "C" {

struct Picture {
    float* data;
    int64_t picture, row, pixel;  // strides
};

// What becomes of a sum v: v + bias, times `slope` where that is negative, on its `curve`, times `scale`, plus `added`. A GATE
// is (v + added) (sigmoid(v) - 1/2): the attention of SPAN (Wan et al., 2023, arXiv 2311.12770), equations 5 and 6.
enum Curve { STRAIGHT, SILU, GELU, GATE };

struct Ending {
    const float* bias;   // [outputs]
    const float* slope;  // [outputs], or null
    int curve;
    float scale;
    Picture added;  // as large as the output; data null: nothing
};

// `height` and `width` are the output's; x has `edge` rows and pixels of zeros around it, beyond its own. One call computes
// the `piece`-th of `pieces` pieces of the output.
struct Sizes {
    int pictures, x_height, x_width, edge, height, width, channels, outputs, lanes, run, threads, piece, pieces;
    int bfloat16;  // whether the transformed tiles are rounded to them; then `weights` are
};
}

namespace {

// How many numbers lie between the matrices of two points: an odd number of cache lines, or the 36 of them that a tile is
// spread over would fall into the same few sets of the cache.
template <class Number> inline int64_t apart(int count, int channels) {
    constexpr int64_t MANY = LINE / sizeof(Number);
    return (((int64_t(count) * channels + MANY - 1) / MANY) | 1) * MANY;
}

// What one thread has room for, in bytes: a run of tiles, transformed, and their sums.
template <class Number> inline int64_t room(const Sizes& s) {
    return POINTS * (apart<Number>(s.run, s.channels) * sizeof(Number) + apart<float>(s.run, s.outputs) * sizeof(float));
}

// Where a tile of the output begins: tiles are counted along rows, row after row, picture after picture.
struct Place {
    int picture, top, left;
};

inline Place place(int64_t tile, const Sizes& s) {
    const int down = (s.height + OUT - 1) / OUT, across = (s.width + OUT - 1) / OUT;
    const int64_t row = tile / across;
    return {int(row / down), int(row % down) * OUT, int(tile % across) * OUT};
}

template <int L, class Number>
void take_in(const Picture& x, const Sizes& s, int64_t first, int count, Number* tiles) {
    using Vector = typename Lanes<L>::Vector;
    const int64_t step = apart<Number>(count, s.channels);
    for (int t = 0; t < count; ++t) {
        const Place at = place(first + t, s);
        const int y0 = at.top - s.edge, x0 = at.left - s.edge;
        const float* corner = x.data + at.picture * x.picture + y0 * x.row + x0 * x.pixel;
        const bool inside = y0 >= 0 && x0 >= 0 && y0 + SIDE <= s.x_height && x0 + SIDE <= s.x_width;
        for (int c = 0; c < s.channels; c += L) {
            Vector seen[POINTS], half[POINTS];
            if (inside) {
                for (int i = 0; i < SIDE; ++i)
                    for (int j = 0; j < SIDE; ++j)
                        seen[i * SIDE + j] = Lanes<L>::load(corner + i * x.row + j * x.pixel + c);
            } else {
                for (int i = 0; i < SIDE; ++i)
                    for (int j = 0; j < SIDE; ++j) {
                        const bool there = y0 + i >= 0 && y0 + i < s.x_height && x0 + j >= 0 && x0 + j < s.x_width;
                        seen[i * SIDE + j] = there ? Lanes<L>::load(corner + i * x.row + j * x.pixel + c) : Vector{};
                    }
            }
            for (int j = 0; j < SIDE; ++j) {
                Vector column[SIDE];
                into(seen + j, SIDE, column);
                for (int i = 0; i < SIDE; ++i) half[i * SIDE + j] = column[i];
            }
            for (int i = 0; i < SIDE; ++i) {
                Vector row[SIDE];
                into(half + i * SIDE, 1, row);
                for (int j = 0; j < SIDE; ++j)
                    store<L>(tiles + (i * SIDE + j) * step + int64_t(t) * s.channels + c, row[j]);
            }
        }
    }
}

template <int L>
void give_out(const float* sums, const Sizes& s, int64_t first, int count, const Ending& ending, const Picture& y) {
    using Vector = typename Lanes<L>::Vector;
    const int64_t step = apart<float>(count, s.outputs);
    const Picture& more = ending.added;
    for (int t = 0; t < count; ++t) {
        const Place at = place(first + t, s);
        const int rows = std::min(OUT, s.height - at.top), across = std::min(OUT, s.width - at.left);
        float* corner = y.data + at.picture * y.picture + at.top * y.row + at.left * y.pixel;
        const float* added =
            more.data ? more.data + at.picture * more.picture + at.top * more.row + at.left * more.pixel : nullptr;
        for (int o = 0; o < s.outputs; o += L) {
            Vector sum[POINTS], half[OUT * SIDE];
            for (int k = 0; k < POINTS; ++k) {
                const float* from = sums + k * step + int64_t(t) * s.outputs + o;
                sum[k] = Lanes<L>::load(from);
                __builtin_prefetch(from + L, 0, 3);  // no prefetcher follows so many streams
            }
            for (int j = 0; j < SIDE; ++j) {
                Vector column[OUT];
                out_of(sum + j, SIDE, column);
                for (int i = 0; i < OUT; ++i) half[i * SIDE + j] = column[i];
            }
            const Vector bias = Lanes<L>::load(ending.bias + o);
            for (int i = 0; i < rows; ++i) {
                Vector row[OUT];
                out_of(half + i * SIDE, 1, row);
                for (int j = 0; j < across; ++j) {
                    Vector value = row[j] + bias;
                    if (ending.slope) {
                        const Vector bent = Lanes<L>::load(ending.slope + o) * value;
                        value = value > 0 ? value : bent;
                    }
                    if (ending.curve == SILU)
                        value = value * sigmoid<L>(value);
                    else if (ending.curve == GELU)
                        value = gelu<L>(value);
                    if (added) {
                        const Vector other = Lanes<L>::load(added + i * more.row + j * more.pixel + o);
                        if (ending.curve == GATE)
                            value = (value + other) * (sigmoid<L>(value) - 0.5f);
                        else
                            value = ending.scale * value + other;
                    }
                    Lanes<L>::store(corner + i * y.row + j * y.pixel + o, value);
                }
            }
        }
    }
}

// Have the `part`-th of POINTS parts of what the run of tiles from `at` on reads brought into the second-level cache (the
// first one is full of what is multiplied): the rows of its tiles, as far as they lie side by side, whole pixels.
inline void fetch(const Picture& x, const Sizes& s, const Place& at, int part) {
    const int row = std::min(std::max(at.top - s.edge + part % SIDE, 0), s.x_height - 1);
    const int64_t floats = std::min(s.run * OUT, s.x_width - at.left) * x.pixel / SIDE;
    const float* from = x.data + at.picture * x.picture + row * x.row + at.left * x.pixel + part / SIDE * floats;
    for (int64_t k = 0; k < floats; k += LINE / sizeof(float)) __builtin_prefetch(from + k, 0, 2);
    asm volatile("");  // g++ drops calls of functions that do nothing but prefetch
}

template <int L, class Number>
void run(const Picture& x, const Number* weights, const Ending& ending, const Picture& y, const Sizes& s, char* scratch) {
    const int64_t down = (s.height + OUT - 1) / OUT, across = (s.width + OUT - 1) / OUT;
    const int64_t all = s.pictures * down * across, runs = (all + s.run - 1) / s.run;
    const int64_t begin = runs * s.piece / s.pieces, end = runs * (s.piece + 1) / s.pieces;
    int taken = 0;
#pragma omp parallel num_threads(s.threads)
    {
        int mine;
#pragma omp atomic capture
        mine = taken++;
        Number* tiles = reinterpret_cast<Number*>(scratch + mine * room<Number>(s));
        float* sums = reinterpret_cast<float*>(tiles + POINTS * apart<Number>(s.run, s.channels));
#pragma omp for schedule(dynamic, 1)
        for (int64_t k = begin; k < end; ++k) {
            const int64_t first = k * s.run;
            const int count = int(std::min<int64_t>(s.run, all - first));
            take_in<L>(x, s, first, count, tiles);
            const Place next = place(std::min(first + int64_t(s.threads) * s.run, all - 1), s);
            for (int p = 0; p < POINTS; ++p) {
                fetch(x, s, next, p);
                multiply<L, Number>({tiles + p * apart<Number>(count, s.channels), s.channels}, count, s.channels,
                                    weights + int64_t(p) * s.channels * s.outputs,
                                    {sums + p * apart<float>(count, s.outputs), s.outputs}, s.outputs);
            }
            give_out<L>(sums, s, first, count, ending, y);
        }
    }
}

template <class Number>
void convolve_by(const Picture& x, const void* weights, const Ending& ending, const Picture& y, const Sizes& s,
                 char* scratch) {
    const Number* numbers = static_cast<const Number*>(weights);
    if (s.lanes == WIDEST)
        run<WIDEST>(x, numbers, ending, y, s, scratch);
    else
        run<8>(x, numbers, ending, y, s, scratch);
}

}  // namespace

extern "C" {

// The floats in a register: channels and outputs that are multiples of it run at full width; they must be of 8.
int widest() { return WIDEST; }

// Whether this processor multiplies bfloat16s itself; on others it is done by way of floats.
int knows_bfloat16() { return HAS_BFLOAT16; }

// Bytes of scratch that `convolve` needs for these sizes.
int64_t scratch_bytes(const Sizes* sizes) {
    return (sizes->bfloat16 ? room<BFloat16>(*sizes) : room<float>(*sizes)) * sizes->threads;
}

// y = the convolution of x; `weights` as winograd.py packs them. x and y must not overlap.
void convolve(const Picture* x, const void* weights, const Ending* ending, const Picture* y, const Sizes* sizes,
              void* scratch) {
    if (sizes->bfloat16)
        convolve_by<BFloat16>(*x, weights, *ending, *y, *sizes, static_cast<char*>(scratch));
    else
        convolve_by<float>(*x, weights, *ending, *y, *sizes, static_cast<char*>(scratch));
}
}
