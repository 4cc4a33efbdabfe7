// Functions of registers of floats.
#pragma once

#include "product.h"

namespace {

// e^x for x <= 0, by 2^n e^r with r in +-ln(2)/2 and six terms of e^r's series, which leaves 1.2e-7 of it; NaN stays.
template <int L> inline typename Lanes<L>::Vector exponential(typename Lanes<L>::Vector x) {
    using Vector = typename Lanes<L>::Vector;
    typedef int32_t Integers __attribute__((vector_size(L * sizeof(float))));
    const float shift = 12582912.f;  // 1.5 * 2^23: a float that is added to it is rounded to an integer, in its low bits
    const Vector most = x > -87.f ? x : Vector{} - 87.f;
    const Vector shifted = most * 1.44269504f + shift, n = shifted - shift;
    const Vector r = (most - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2), its first bits apart: Cody and Waite, 1980
    Vector sum = r * (1.f / 720) + 1.f / 120;
    sum = sum * r + 1.f / 24;
    sum = sum * r + 1.f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.f;
    sum = sum * r + 1.f;
    const Integers exponent = reinterpret_cast<Integers>(shifted) << 23;
    const Vector scaled = reinterpret_cast<Vector>(reinterpret_cast<Integers>(sum) + exponent);
    return x == x ? scaled : x;
}

// 1 / (1 + e^-x), without an exponential that overflows; NaN stays.
template <int L> inline typename Lanes<L>::Vector sigmoid(typename Lanes<L>::Vector x) {
    using Vector = typename Lanes<L>::Vector;
    const Vector one = Vector{} + 1.f, below = x < 0 ? x : -x;
    const Vector power = below < -87.f ? Vector{} : exponential<L>(below);  // an `x` times it may be as large as floats get
    return (x < 0 ? power : one) / (one + power);
}

// x times the share of a normal distribution that lies below x, which is GELU (Hendrycks and Gimpel, 2016, arXiv 1606.08415):
// the error function by 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, which leaves 1.5e-7.
template <int L> inline typename Lanes<L>::Vector gelu(typename Lanes<L>::Vector x) {
    using Vector = typename Lanes<L>::Vector;
    const Vector z = (x < 0 ? -x : x) * 0.70710678f, t = 1.f / (1.f + 0.3275911f * z);
    Vector sum = t * 1.061405429f - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    const Vector above = 0.5f * sum * t * exponential<L>(-z * z);  // the share beyond |x|
    return x * (x < 0 ? above : 1.f - above);
}

}  // namespace
