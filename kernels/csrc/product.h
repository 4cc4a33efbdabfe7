// What our kernels for CPUs share: registers of floats, and a matrix product of a few rows that stay in the cache. What is
// multiplied are floats, or bfloat16s, of which processors that know them multiply twice as many; sums are floats.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#define HAS_BFLOAT16 1
#else
#define HAS_BFLOAT16 0
#endif

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

// The upper half of a float.
struct BFloat16 {
    uint16_t bits;
};

// Rounded to the nearest, ties to even; NaN stays one.
template <int L> inline void store(float* to, typename Lanes<L>::Vector value) { Lanes<L>::store(to, value); }

template <int L> inline void store(BFloat16* to, typename Lanes<L>::Vector value) {
#if HAS_BFLOAT16
    if constexpr (L == 16) {
        const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(value));
        std::memcpy(to, &rounded, sizeof(rounded));
        return;
    } else if constexpr (L == 8) {
        const __m128bh rounded = _mm256_cvtneps_pbh(reinterpret_cast<__m256>(value));
        std::memcpy(to, &rounded, sizeof(rounded));
        return;
    }
#endif
    for (int k = 0; k < L; ++k) {
        uint32_t bits;
        const float one = value[k];
        std::memcpy(&bits, &one, sizeof(bits));
        to[k].bits = uint16_t(one == one ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : bits >> 16 | 0x40);
    }
}

// A matrix whose columns are dense, its rows `step` numbers apart.
template <class Number> struct Rows {
    Number* data;
    int64_t step;
    Rows from(int64_t row) const { return {data + row * step, step}; }
};

inline int64_t rounded(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// A register whose first `count` numbers, at most all, are those from `from` on, the others zeros.
template <int L> inline typename Lanes<L>::Vector load_first(const float* from, int count) {
#if defined(__AVX512F__)
    if constexpr (L == 16)
        return reinterpret_cast<typename Lanes<L>::Vector>(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from));
#endif
    float first[L] = {};
    std::copy(from, from + count, first);
    return Lanes<L>::load(first);
}

template <int L, class Number> inline void store_some(const float* from, int64_t count, Number* to) {
    int64_t k = 0;
    for (; k + L <= count; k += L) store<L>(to + k, Lanes<L>::load(from + k));
    if (k < count) {
        Number stored[L];
        store<L>(stored, load_first<L>(from + k, int(count - k)));
        std::copy(stored, stored + (count - k), to + k);
    }
}

// The first `count` of a register, at most all of it.
template <int L> inline void store_first(typename Lanes<L>::Vector value, int count, float* to) {
#if defined(__AVX512F__)
    if constexpr (L == 16) {
        _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), reinterpret_cast<__m512>(value));
        return;
    }
#endif
    if (count == L)
        Lanes<L>::store(to, value);
    else
        for (int k = 0; k < count; ++k) to[k] = value[k];
}

// The rows that are multiplied: themselves, or what they are rounded to, in `scratch`, an odd channel filled up by a zero.
template <int L> Rows<const float> rows_of(Rows<const float> rows, int, int, float*) { return rows; }

template <int L> Rows<const BFloat16> rows_of(Rows<const float> rows, int count, int channels, BFloat16* scratch) {
    const int64_t even = rounded(channels, 2);
    if (even == channels && rows.step == channels) {
        store_some<L>(rows.data, int64_t(count) * channels, scratch);
    } else {
        for (int r = 0; r < count; ++r) {
            store_some<L>(rows.data + r * rows.step, channels, scratch + r * even);
            if (even > channels) scratch[r * even + channels] = {};
        }
    }
    return {scratch, even};
}

// How many channels are multiplied at once, and by what: L weights for each, those of one output side by side.
template <int L, class Number> struct Step;

template <int L> struct Step<L, float> {
    using Vector = typename Lanes<L>::Vector;
    using Weights = Vector;
    using Value = float;
    static constexpr int CHANNELS = 1;
    static Weights weights(const float* from) { return Lanes<L>::load(from); }
    static Value value(const float* from) { return *from; }
    static void add(Vector& sum, Value value, Weights weights) { sum += value * weights; }
};

template <int L> struct Step<L, BFloat16> {
    using Vector = typename Lanes<L>::Vector;
    typedef int32_t Weights __attribute__((vector_size(L * sizeof(int32_t))));  // each two bfloat16s
    using Value = int32_t;
    static constexpr int CHANNELS = 2;
    static Weights weights(const BFloat16* from) {
        Weights found;
        std::memcpy(&found, from, sizeof(found));
        return found;
    }
    static Value value(const BFloat16* from) {
        Value found;
        std::memcpy(&found, from, sizeof(found));
        return found;
    }
    static void add(Vector& sum, Value value, Weights weights) {
        const Weights values = value - Weights{};
#if HAS_BFLOAT16
        if constexpr (L == 16) {
            sum = reinterpret_cast<Vector>(_mm512_dpbf16_ps(
                reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(values), reinterpret_cast<__m512bh>(weights)));
            return;
        } else if constexpr (L == 8) {
            sum = reinterpret_cast<Vector>(_mm256_dpbf16_ps(
                reinterpret_cast<__m256>(sum), reinterpret_cast<__m256bh>(values), reinterpret_cast<__m256bh>(weights)));
            return;
        }
#endif
        const auto high = [](Weights pairs) { return reinterpret_cast<Vector>(pairs & int32_t(0xffff0000)); };
        const auto low = [](Weights pairs) { return reinterpret_cast<Vector>(pairs << 16); };
        sum += high(values) * high(weights);
        sum += low(values) * low(weights);
    }
};

// rows[R][channels] . weights[channels][columns], columns being one register or two; each sum goes to
// `put(row, register, sum)`, rows counted from `first`.
template <int L, int R, int WIDE, class Number, class Put>
inline void block(Rows<const Number> rows, int first, int channels, const Number* weights, const Put& put) {
    using By = Step<L, Number>;
    typename By::Vector sum[R][WIDE] = {};
    const Number* row = rows.data + first * rows.step;
    for (int c = 0; c < channels; c += By::CHANNELS) {
        typename By::Weights weight[WIDE];
        for (int k = 0; k < WIDE; ++k) weight[k] = By::weights(weights + (int64_t(c) * WIDE + k * By::CHANNELS) * L);
        for (int r = 0; r < R; ++r) {
            const auto value = By::value(row + r * rows.step + c);
            for (int k = 0; k < WIDE; ++k) By::add(sum[r][k], value, weight[k]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int k = 0; k < WIDE; ++k) put(first + r, k, sum[r][k]);
}

template <int L, int WIDE, class Number, class Put>
inline void columns(Rows<const Number> rows, int count, int channels, const Number* weights, const Put& put) {
    int r = 0;
    for (; r + ROWS <= count; r += ROWS) block<L, ROWS, WIDE>(rows, r, channels, weights, put);
    for (; r + 3 <= count; r += 3) block<L, 3, WIDE>(rows, r, channels, weights, put);
    for (; r < count; ++r) block<L, 1, WIDE>(rows, r, channels, weights, put);
}

// sums[count][outputs] = rows[count][channels] . weights, which lie in blocks of two registers' columns, and one's at
// the end where `outputs` asks for it; of bfloat16s the channels are even, two of an output's side by side.
template <int L, class Number>
void multiply(Rows<const Number> rows, int count, int channels, const Number* weights, Rows<float> sums, int outputs) {
    using Vector = typename Lanes<L>::Vector;
    for (int o = 0; o < outputs; o += 2 * L) {
        const auto put = [=](int row, int k, Vector sum) {
            Lanes<L>::store(sums.data + row * sums.step + o + k * L, sum);
        };
        const Number* from = weights + int64_t(o) * channels;
        if (outputs - o > L)
            columns<L, 2>(rows, count, channels, from, put);
        else
            columns<L, 1>(rows, count, channels, from, put);
    }
}

}  // namespace
