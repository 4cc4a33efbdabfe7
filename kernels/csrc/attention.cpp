// softmax(queries . keys^T + biases) . values on a CPU, for many small matrices: the windows and heads of attention models
// that upscale. A thread takes one pair of window and head: packs its keys and values as the product wants them, and then
// goes through the queries a few rows at a time, whose scores never leave its cache. Libraries' fused attention is made
// for few and long sequences: for windows of 64 pixels torch's is no faster than its operations one by one.
//
// Built by build.py, called by window_attention.py. No torch here: plain pointers, and OpenMP, whose threads are torch's
// own. Tensors are [window][head][row][column], columns dense; strides are counted in floats.

#include <cmath>

#include "exponential.h"
#include "product.h"

extern "C" {

struct Tensor {
    const float* data;
    int64_t window, head, row;  // strides, 0 where it is the same for all
};

// `columns` is how many keys there are, `biases` how many of the two are added.
struct Sizes {
    int windows, heads, rows, columns, channels, biases, lanes, threads;
};
}

namespace {

constexpr int RUN = 12;  // rows of scores at a time: with 256 columns 12 KB, which the first cache holds
constexpr int LINE = 16;

inline int64_t rounded(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// What one thread has room for: keys, values, scores and sums.
inline int64_t room(const Sizes& s) {
    const int64_t wide = rounded(s.channels, WIDEST);
    return rounded(int64_t(s.columns) * (s.channels + wide) + RUN * (s.columns + wide), LINE);
}

inline const float* at(const Tensor& tensor, int64_t pair, const Sizes& s) {
    return tensor.data + pair / s.heads * tensor.window + pair % s.heads * tensor.head;
}

// A matrix [channels][columns] in blocks of two registers' columns, and one's at the end: `given(channel, column)`.
template <int L, class Given> void pack(int channels, int columns, Given given, float* to) {
    for (int first = 0; first < columns; first += 2 * L) {
        const int wide = std::min(2 * L, columns - first);
        for (int c = 0; c < channels; ++c)
            for (int k = 0; k < wide; ++k) *to++ = given(c, first + k);
    }
}

template <int L, class Operation> inline float reduced(typename Lanes<L>::Vector value, Operation operation) {
    float result = value[0];
    for (int k = 1; k < L; ++k) result = operation(result, value[k]);
    return result;
}

// Add the biases of a row to its scores and make e^(score - largest) of them. Returns their sum.
template <int L> inline float normalize(float* scores, const float* const* biases, const Sizes& s) {
    using Vector = typename Lanes<L>::Vector;
    Vector largest = Vector{} - INFINITY;
    for (int c = 0; c < s.columns; c += L) {
        Vector score = Lanes<L>::load(scores + c);
        for (int k = 0; k < s.biases; ++k) score += Lanes<L>::load(biases[k] + c);
        Lanes<L>::store(scores + c, score);
        largest = score > largest ? score : largest;
    }
    const float top = reduced<L>(largest, [](float a, float b) { return a > b ? a : b; });
    Vector sum{};
    for (int c = 0; c < s.columns; c += L) {
        const Vector share = exponential<L>(Lanes<L>::load(scores + c) - top);
        Lanes<L>::store(scores + c, share);
        sum += share;
    }
    return reduced<L>(sum, [](float a, float b) { return a + b; });
}

template <int L>
void run(const Tensor* given, float* result, const Sizes& s, float* scratch) {
    const Tensor &queries = given[0], &keys = given[1], &values = given[2];
    const int wide = int(rounded(s.channels, L));
    const int64_t pairs = int64_t(s.windows) * s.heads, across = int64_t(s.heads) * s.channels;
    // a window's heads share cache lines; but all threads should have some
    const int together = int(std::max<int64_t>(1, std::min<int64_t>(s.heads, pairs / (4 * s.threads))));
    int taken = 0;
#pragma omp parallel num_threads(s.threads)
    {
        int mine;
#pragma omp atomic capture
        mine = taken++;
        float* packed_keys = scratch + mine * room(s);
        float* packed_values = packed_keys + int64_t(s.columns) * s.channels;
        float* scores = packed_values + int64_t(s.columns) * wide;
        float* sums = scores + int64_t(RUN) * s.columns;
#pragma omp for schedule(dynamic, together)
        for (int64_t pair = 0; pair < pairs; ++pair) {
            const float *key = at(keys, pair, s), *value = at(values, pair, s), *query = at(queries, pair, s);
            pack<L>(s.channels, s.columns, [&](int c, int column) { return key[column * keys.row + c]; }, packed_keys);
            pack<L>(
                s.columns, wide, [&](int row, int c) { return c < s.channels ? value[row * values.row + c] : 0.f; },
                packed_values);
            for (int first = 0; first < s.rows; first += RUN) {
                const int count = std::min(RUN, s.rows - first);
                multiply<L, float>({query + first * queries.row, queries.row}, count, s.channels, packed_keys,
                            {scores, s.columns}, s.columns);
                float total[RUN];
                for (int r = 0; r < count; ++r) {
                    const float* biases[2];
                    for (int k = 0; k < s.biases; ++k)
                        biases[k] = at(given[3 + k], pair, s) + (first + r) * given[3 + k].row;
                    total[r] = normalize<L>(scores + int64_t(r) * s.columns, biases, s);
                }
                multiply<L, float>({scores, s.columns}, count, s.columns, packed_values, {sums, wide}, wide);
                // [window][row][head][channel], as the next layer wants it
                float* to = result + (pair / s.heads * s.rows + first) * across + pair % s.heads * s.channels;
                for (int r = 0; r < count; ++r)
                    for (int c = 0; c < s.channels; ++c) to[r * across + c] = sums[r * wide + c] / total[r];
            }
        }
    }
}

}  // namespace

extern "C" {

// Bytes of scratch that `attend` needs for these sizes.
int64_t scratch_bytes(const Sizes* sizes) { return room(*sizes) * sizes->threads * int64_t(sizeof(float)); }

// The floats in a register: what `lanes` may be if `columns` is a multiple of it, else 8, of which it must be one.
int widest() { return WIDEST; }

// result[window][row][head][channel] from `given`: queries, keys, values, and the biases.
void attend(const Tensor* given, float* result, const Sizes* sizes, float* scratch) {
    if (sizes->lanes == WIDEST)
        run<WIDEST>(given, result, *sizes, scratch);
    else
        run<8>(given, result, *sizes, scratch);
}
}
