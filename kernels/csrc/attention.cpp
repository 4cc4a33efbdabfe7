// softmax(queries . keys^T + biases) . values on a CPU, for many small matrices: the windows and heads of attention models
// that upscale. A thread takes one pair of window and head: packs its keys and values as the product wants them, and then
// goes through the queries a few rows at a time (attention.h). Libraries' fused attention is made for few and long
// sequences: for windows of 64 pixels torch's is no faster than its operations one by one.
//
// Built by build.py, called by window_attention.py. No torch here: plain pointers, and OpenMP, whose threads are torch's
// own. Tensors are [window][head][row][column], columns dense; strides are counted in floats.

#include "attention.h"

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

// Where what one thread needs lies within its room, in bytes: a head's own, and what is copied of queries, keys and values.
struct Room {
    int64_t queries, keys, values, end;
};

template <class Number> inline Room room(const Sizes& s) {
    const int64_t even = rounded(s.channels, 2), number = sizeof(Number), wide = rounded(s.channels, WIDEST);
    const int64_t copied = number == sizeof(float) ? 0 : even * number;  // floats are multiplied where they lie
    Room in{};
    in.queries = places<Number>({s.columns, s.channels}).end;
    in.keys = in.queries + rounded(RUN * copied, LINE);
    in.values = in.keys + rounded(s.columns * copied, LINE);
    in.end = in.values + rounded(s.columns * wide * number, LINE);
    return in;
}

inline const float* at(const Tensor& tensor, int64_t pair, const Sizes& s) {
    return tensor.data + pair / s.heads * tensor.window + pair % s.heads * tensor.head;
}

template <int L, class Number>
void run(const Tensor* given, float* result, const Sizes& s, char* scratch) {
    using Vector = typename Lanes<L>::Vector;
    const Tensor &queries = given[0], &keys = given[1], &values = given[2];
    const int64_t pairs = int64_t(s.windows) * s.heads, across = int64_t(s.heads) * s.channels;
    const int64_t wide = rounded(s.channels, L);
    // a window's heads share cache lines; but all threads should have some
    const int together = int(std::max<int64_t>(1, std::min<int64_t>(s.heads, pairs / (4 * s.threads))));
    const Room in = room<Number>(s);
    int taken = 0;
#pragma omp parallel num_threads(s.threads)
    {
        int mine;
#pragma omp atomic capture
        mine = taken++;
        char* own = scratch + mine * in.end;
        Number* own_queries = reinterpret_cast<Number*>(own + in.queries);
        Number* own_keys = reinterpret_cast<Number*>(own + in.keys);
        Number* own_values = reinterpret_cast<Number*>(own + in.values);
        Attention<L, Number> attention({s.columns, s.channels}, own);
#pragma omp for schedule(dynamic, together)
        for (int64_t pair = 0; pair < pairs; ++pair) {
            const float *key = at(keys, pair, s), *value = at(values, pair, s), *query = at(queries, pair, s);
            for (int row = 0; row < s.columns; ++row)
                for (int c = 0; c < s.channels; c += L) {
                    const int count = std::min(L, s.channels - c);
                    store<L>(own_values + row * wide + c, load_first<L>(value + row * values.row + c, count));
                }
            attention.pack(
                rows_of<L>({key, keys.row}, s.columns, s.channels, own_keys), {own_values, wide});
            for (int first = 0; first < s.rows; first += RUN) {
                const int count = std::min(RUN, s.rows - first);
                const auto asked = rows_of<L>({query + first * queries.row, queries.row}, count, s.channels, own_queries);
                Rows<const float> biases[2] = {};
                for (int k = 0; k < s.biases; ++k)
                    biases[k] = Rows<const float>{at(given[3 + k], pair, s), given[3 + k].row}.from(first);
                const auto bias = [=](int row, int column) {
                    Vector sum{};
                    for (const auto& one : biases)
                        if (one.data) sum += Lanes<L>::load(one.from(row).data + column);
                    return sum;
                };
                // [window][row][head][channel], as the next layer wants it
                float* to = result + (pair / s.heads * s.rows + first) * across + pair % s.heads * s.channels;
                attention.attend(asked, count, bias, [=](int row, int k, Vector attended) {
                    store_first<L>(attended, std::min(L, s.channels - k * L), to + row * across + k * L);
                });
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
    return (sizes->bfloat16 ? room<BFloat16>(*sizes) : room<float>(*sizes)).end * sizes->threads;
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
