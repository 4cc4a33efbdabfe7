// Linear layers on a CPU, by products of bfloat16s: y = x . weights + bias, with the activation that follows in one pass. A
// thread takes some rows at a time and rounds them; they stay in its cache while all weights go by.
//
// Built by build.py, called by linear.py. No torch here: plain pointers, and OpenMP, whose threads are torch's own.

#include "exponential.h"
#include "product.h"

extern "C" {

// x is [rows][channels], y [rows][outputs], both dense. `gelu`: the activation.
struct Sizes {
    int64_t rows;
    int channels, outputs, lanes, threads, gelu;
};
}

namespace {

constexpr int64_t LINE = 64;  // bytes of the cache
constexpr int RUN = 48;       // rows that a thread takes at once: 17 KB with 180 channels

// What one thread has room for, in bytes: its rows, rounded.
inline int64_t room(const Sizes& s) {
    return rounded(RUN * rounded(s.channels, 2) * int64_t(sizeof(BFloat16)), LINE);
}

// What becomes of the sums of the registers from output `o` on.
template <int L> struct Finish {
    using Vector = typename Lanes<L>::Vector;
    const float* bias;
    float* y;
    const Sizes& s;
    int o;
    void operator()(int row, int k, Vector value) const {
        const int at = o + k * L;
        value += Lanes<L>::load(bias + at);
        if (s.gelu) value = gelu<L>(value);
        store_first<L>(value, std::min(L, s.outputs - at), y + int64_t(row) * s.outputs + at);
    }
};

template <int L>
void run(const float* x, const BFloat16* weights, const float* bias, float* y, const Sizes& s, char* scratch) {
    const int64_t runs = (s.rows + RUN - 1) / RUN;
    int taken = 0;
#pragma omp parallel num_threads(s.threads)
    {
        int mine;
#pragma omp atomic capture
        mine = taken++;
        BFloat16* own = reinterpret_cast<BFloat16*>(scratch + mine * room(s));
#pragma omp for schedule(dynamic, 4)
        for (int64_t k = 0; k < runs; ++k) {
            const int64_t first = k * RUN;
            const int count = int(std::min<int64_t>(RUN, s.rows - first));
            const auto rows = rows_of<L>({x + first * s.channels, s.channels}, count, s.channels, own);
            const int channels = int(rows.step);
            for (int o = 0; o < s.outputs; o += 2 * L) {
                const Finish<L> finish{bias, y + first * s.outputs, s, o};
                const BFloat16* from = weights + int64_t(o) * channels;
                if (s.outputs - o > L)
                    columns<L, 2>(rows, count, channels, from, finish);
                else
                    columns<L, 1>(rows, count, channels, from, finish);
            }
        }
    }
}

}  // namespace

extern "C" {

// The floats in a register: `weights` and `bias` are filled up to a multiple of `lanes` outputs, this or 8.
int widest() { return WIDEST; }

// Bytes of scratch that `apply` needs for these sizes.
int64_t scratch_bytes(const Sizes* sizes) { return room(*sizes) * sizes->threads; }

// y = what follows x . weights + bias; `weights` as linear.py packs them. x and y must not overlap.
void apply(const float* x, const BFloat16* weights, const float* bias, float* y, const Sizes* sizes, char* scratch) {
    if (sizes->lanes == WIDEST)
        run<WIDEST>(x, weights, bias, y, *sizes, scratch);
    else
        run<8>(x, weights, bias, y, *sizes, scratch);
}
}
