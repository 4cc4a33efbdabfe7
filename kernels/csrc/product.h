// What our kernels for CPUs share: registers of floats, and a matrix product of a few rows that stay in the cache.
#pragma once

#include <algorithm>
#include <cstdint>

namespace {

#if defined(__AVX512F__) || defined(AS_IF_AVX512)  // the latter is for tests: g++ makes each register of two
constexpr int WIDEST = 16;  // floats in a register
constexpr int ROWS = 12;    // rows multiplied at once: as many sums as the registers hold
#else
constexpr int WIDEST = 8;
constexpr int ROWS = 6;
#endif

template <int L> struct Lanes {
    typedef float Vector __attribute__((vector_size(L * sizeof(float))));
    typedef float Unaligned __attribute__((vector_size(L * sizeof(float)), aligned(sizeof(float))));
    static Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
    static void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
};

// A matrix whose columns are dense, its rows `step` floats apart.
template <class Float> struct Rows {
    Float* data;
    int64_t step;
    Rows from(int64_t row) const { return {data + row * step, step}; }
};

// sums[R][columns] = rows[R][channels] . weights[channels][columns], columns being one register or two.
template <int L, int R, int WIDE>
inline void block(Rows<const float> rows, int channels, const float* weights, Rows<float> sums) {
    using Vector = typename Lanes<L>::Vector;
    Vector sum[R][WIDE] = {};
    for (int c = 0; c < channels; ++c) {
        Vector weight[WIDE];
        for (int k = 0; k < WIDE; ++k) weight[k] = Lanes<L>::load(weights + (int64_t(c) * WIDE + k) * L);
        for (int r = 0; r < R; ++r) {
            const float value = rows.data[r * rows.step + c];
            for (int k = 0; k < WIDE; ++k) sum[r][k] += value * weight[k];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int k = 0; k < WIDE; ++k) Lanes<L>::store(sums.data + r * sums.step + k * L, sum[r][k]);
}

template <int L, int WIDE>
void columns(Rows<const float> rows, int count, int channels, const float* weights, Rows<float> sums) {
    int r = 0;
    for (; r + ROWS <= count; r += ROWS) block<L, ROWS, WIDE>(rows.from(r), channels, weights, sums.from(r));
    for (; r + 3 <= count; r += 3) block<L, 3, WIDE>(rows.from(r), channels, weights, sums.from(r));
    for (; r < count; ++r) block<L, 1, WIDE>(rows.from(r), channels, weights, sums.from(r));
}

// sums[count][outputs] = rows[count][channels] . weights, which lie in blocks of two registers' columns, and one's at
// the end where `outputs` asks for it.
template <int L>
void multiply(Rows<const float> rows, int count, int channels, const float* weights, Rows<float> sums, int outputs) {
    int o = 0;
    for (; o + 2 * L <= outputs; o += 2 * L)
        columns<L, 2>(rows, count, channels, weights + int64_t(o) * channels, {sums.data + o, sums.step});
    if (o < outputs) columns<L, 1>(rows, count, channels, weights + int64_t(o) * channels, {sums.data + o, sums.step});
}

}  // namespace
