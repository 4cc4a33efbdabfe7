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

// `columns` is how many keys there are, `biases` how many of the two are added. `bfloat16`: what is multiplied.
struct Sizes {
    int windows, heads, rows, columns, channels, biases, lanes, threads, bfloat16;
};
}

namespace {

constexpr int RUN = 12;  // rows of scores at a time: with 256 columns 12 KB, which the first cache holds
constexpr int64_t LINE = 64;  // bytes of the cache

// Where what one thread needs lies within its room, in bytes: packed keys and values, a run's queries and shares, where they
// are no floats, its scores and its sums.
struct Places {
    int64_t values, queries, shares, scores, sums, end;
};

template <class Number> inline Places places(const Sizes& s) {
    const int64_t wide = rounded(s.channels, WIDEST), even = rounded(s.channels, 2), number = sizeof(Number);
    const int64_t copied = number == sizeof(float) ? 0 : RUN * number;  // floats are multiplied where they lie
    const auto after = [](int64_t start, int64_t bytes) { return start + rounded(bytes, LINE); };
    Places p{};
    p.values = after(0, s.columns * even * number);
    p.queries = after(p.values, s.columns * wide * number);
    p.shares = after(p.queries, even * copied);
    p.scores = after(p.shares, s.columns * copied);
    p.sums = after(p.scores, RUN * s.columns * int64_t(sizeof(float)));
    p.end = after(p.sums, RUN * wide * int64_t(sizeof(float)));
    return p;
}

inline const float* at(const Tensor& tensor, int64_t pair, const Sizes& s) {
    return tensor.data + pair / s.heads * tensor.window + pair % s.heads * tensor.head;
}

// A matrix [channels][columns] as `multiply` takes it: `given(channel, column)`, of even channels for bfloat16s.
template <int L, class Number, class Given> void pack(int channels, int columns, Given given, Number* to) {
    constexpr int TOGETHER = Step<L, Number>::CHANNELS;
    for (int first = 0; first < columns; first += 2 * L) {
        const int wide = std::min(2 * L, columns - first);
        for (int c = 0; c < channels; c += TOGETHER) {
            float values[2 * L * TOGETHER];
            for (int k = 0; k < wide; ++k)
                for (int i = 0; i < TOGETHER; ++i) values[k * TOGETHER + i] = given(c + i, first + k);
            store_some<L>(values, wide * TOGETHER, to);
            to += wide * TOGETHER;
        }
    }
}

template <int L, class Operation> inline float reduced(typename Lanes<L>::Vector value, Operation operation) {
    float result = value[0];
    for (int k = 1; k < L; ++k) result = operation(result, value[k]);
    return result;
}

// Add the biases of a row to its scores and make e^(score - largest) of them, its shares. Returns their sum.
template <int L, class Number>
inline float normalize(float* scores, const float* const* biases, const Sizes& s, Number* shares) {
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
        store<L>(shares + c, share);
        sum += share;
    }
    return reduced<L>(sum, [](float a, float b) { return a + b; });
}

template <int L, class Number>
void run(const Tensor* given, float* result, const Sizes& s, char* scratch) {
    const Tensor &queries = given[0], &keys = given[1], &values = given[2];
    const int wide = int(rounded(s.channels, L)), even = int(rounded(s.channels, Step<L, Number>::CHANNELS));
    const int64_t pairs = int64_t(s.windows) * s.heads, across = int64_t(s.heads) * s.channels;
    // a window's heads share cache lines; but all threads should have some
    const int together = int(std::max<int64_t>(1, std::min<int64_t>(s.heads, pairs / (4 * s.threads))));
    const Places in = places<Number>(s);
    int taken = 0;
#pragma omp parallel num_threads(s.threads)
    {
        int mine;
#pragma omp atomic capture
        mine = taken++;
        char* own = scratch + mine * in.end;
        Number* packed_keys = reinterpret_cast<Number*>(own);
        Number* packed_values = reinterpret_cast<Number*>(own + in.values);
        Number* rounded_queries = reinterpret_cast<Number*>(own + in.queries);
        float* scores = reinterpret_cast<float*>(own + in.scores);
        float* sums = reinterpret_cast<float*>(own + in.sums);
        Number* shares = reinterpret_cast<Number*>(own + (sizeof(Number) == sizeof(float) ? in.scores : in.shares));
#pragma omp for schedule(dynamic, together)
        for (int64_t pair = 0; pair < pairs; ++pair) {
            const float *key = at(keys, pair, s), *value = at(values, pair, s), *query = at(queries, pair, s);
            pack<L>(
                even, s.columns, [&](int c, int column) { return c < s.channels ? key[column * keys.row + c] : 0.f; },
                packed_keys);
            pack<L>(
                s.columns, wide, [&](int row, int c) { return c < s.channels ? value[row * values.row + c] : 0.f; },
                packed_values);
            for (int first = 0; first < s.rows; first += RUN) {
                const int count = std::min(RUN, s.rows - first);
                const auto asked =
                    rows_of<L>({query + first * queries.row, queries.row}, count, s.channels, rounded_queries);
                multiply<L, Number>(asked, count, even, packed_keys, {scores, s.columns}, s.columns);
                float total[RUN];
                for (int r = 0; r < count; ++r) {
                    const float* biases[2];
                    for (int k = 0; k < s.biases; ++k)
                        biases[k] = at(given[3 + k], pair, s) + (first + r) * given[3 + k].row;
                    const int64_t row = int64_t(r) * s.columns;
                    total[r] = normalize<L>(scores + row, biases, s, shares + row);
                }
                multiply<L, Number>({shares, s.columns}, count, s.columns, packed_values, {sums, wide}, wide);
                // [window][row][head][channel], as the next layer wants it
                float* to = result + (pair / s.heads * s.rows + first) * across + pair % s.heads * s.channels;
                for (int r = 0; r < count; ++r)
                    for (int c = 0; c < s.channels; ++c) to[r * across + c] = sums[r * wide + c] / total[r];
            }
        }
    }
}

template <int L> void attend_by(const Tensor* given, float* result, const Sizes& s, char* scratch) {
    if (s.bfloat16)
        run<L, BFloat16>(given, result, s, scratch);
    else
        run<L, float>(given, result, s, scratch);
}

}  // namespace

extern "C" {

// Bytes of scratch that `attend` needs for these sizes.
int64_t scratch_bytes(const Sizes* sizes) {
    return (sizes->bfloat16 ? places<BFloat16>(*sizes) : places<float>(*sizes)).end * sizes->threads;
}

// The floats in a register: what `lanes` may be if `columns` is a multiple of it, else 8, of which it must be one.
int widest() { return WIDEST; }

// result[window][row][head][channel] from `given`: queries, keys, values, and the biases.
void attend(const Tensor* given, float* result, const Sizes* sizes, void* scratch) {
    if (sizes->lanes == WIDEST)
        attend_by<WIDEST>(given, result, *sizes, static_cast<char*>(scratch));
    else
        attend_by<8>(given, result, *sizes, static_cast<char*>(scratch));
}
}
