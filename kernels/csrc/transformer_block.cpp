// A transformer block of attention within windows (Swin: Liu et al., 2021, arXiv 2103.14030), as models that upscale have
// it, on a CPU, in one pass over its pixels:
//
//     y = x + added * scale + projection(attention(norm(x))),   result = y + second(gelu(first(norm(y))))
//
// A thread takes one window. Its pixels are fetched from where a shift has them, and stay in the second-level cache until
// they are done; between layers nothing is written to memory. Norms' weights are in the layers' that follow.
//
// Built by build.py, called by transformer_block.py. No torch here: plain pointers, and OpenMP, whose threads are torch's own.

#include <cmath>

#include "attention.h"

extern "C" {

// [pictures][height][width][channels], dense; `added` may be none.
struct Pictures {
    const float *x, *added;
    float* result;
    float scale;
};

// Of a linear layer: weights as packing.py has them, a bias filled up to whole registers.
struct Layer {
    const void* weights;
    const float* bias;
};

// `biases` are added to the scores, [heads][window * window][window * window]; `epsilons` are the norms'.
struct Block {
    Layer queries_keys_values, projection, first, second;
    const float* biases;
    float epsilons[2];
};

// Sides, `window` and `shift` are in pixels; `first` and `count` say which windows are computed.
struct Sizes {
    int pictures, height, width, channels, heads, window, shift, hidden, threads, bfloat16;
    int64_t first, count;
};
}

namespace {

constexpr int TOGETHER = 48;     // pixels whose hidden layer a thread has at once
constexpr float APART = -100.f;  // what is added to the score of two pixels that were no neighbours before the shift

// Where what one thread needs lies within its room, in bytes; and the steps of its rows.
struct Room {
    int64_t step, wide, layers, hidden_step;
    int64_t normed, qkv, pixels, hidden, regions, places, end;
};

template <class Number> inline Room room(const Sizes& s) {
    const int64_t area = int64_t(s.window) * s.window, number = sizeof(Number), line = sizeof(float);
    Room in{};
    in.step = rounded(s.channels + WIDEST, WIDEST);  // what is stored by whole registers ends beyond its row's channels
    in.layers = rounded(3 * s.channels + WIDEST, WIDEST);
    in.wide = rounded(s.channels + 1, WIDEST);
    in.hidden_step = rounded(s.hidden, WIDEST);
    const auto after = [](int64_t start, int64_t bytes) { return start + rounded(bytes, LINE); };
    in.normed = places<Number>({int(area), s.channels / s.heads}).end;
    in.qkv = after(in.normed, area * in.step * number);
    in.pixels = after(in.qkv, area * in.layers * number);
    in.hidden = after(in.pixels, area * in.wide * line);
    in.regions = after(in.hidden, TOGETHER * in.hidden_step * number);
    in.places = after(in.regions, area * line);
    in.end = after(in.places, area * int64_t(sizeof(int64_t)));
    return in;
}

// The layer's sums for all `count` rows of `channels`, with its bias, go to `put(row, column, values)`.
template <int L, class Number, class Put>
inline void apply(const Layer& layer, Rows<const Number> rows, int count, int channels, int outputs, const Put& put) {
    for (int o = 0; o < outputs; o += 2 * L) {
        const auto finish = [&](int row, int k, typename Lanes<L>::Vector sum) {
            const int at = o + k * L;
            put(row, at, sum + Lanes<L>::load(layer.bias + at));
        };
        const Number* from = static_cast<const Number*>(layer.weights) + int64_t(o) * channels;
        if (outputs - o > L)
            columns<L, 2>(rows, count, channels, from, finish);
        else
            columns<L, 1>(rows, count, channels, from, finish);
    }
}

// A pixel's channels with a mean of 0 and a variance of 1: what a norm does before its weights. Whole registers are read and
// written.
template <int L, class Number> inline void normalize(const float* pixel, int channels, float epsilon, Number* to) {
    using Vector = typename Lanes<L>::Vector;
    const int whole = channels / L * L;
    Vector inside;  // 1 for the channels of the last register, and 0 for what is beyond
    for (int k = 0; k < L; ++k) inside[k] = whole + k < channels;
    const Vector last = inside != 0 ? Lanes<L>::load(pixel + whole) : Vector{};
    Vector sum = last;
    for (int c = 0; c < whole; c += L) sum += Lanes<L>::load(pixel + c);
    const auto plus = [](auto a, auto b) { return a + b; };
    const float mean = reduced<L>(sum, plus) / channels;
    const Vector off = (last - mean) * inside;
    Vector square = off * off;
    for (int c = 0; c < whole; c += L) {
        const Vector one = Lanes<L>::load(pixel + c) - mean;
        square += one * one;
    }
    const float factor = 1.f / std::sqrt(reduced<L>(square, plus) / channels + epsilon);
    for (int c = 0; c < whole; c += L) store<L>(to + c, (Lanes<L>::load(pixel + c) - mean) * factor);
    store<L>(to + whole, off * factor);
}

// 0, 1 or 2: before the last window, in it, or come from the other side by the shift.
inline int region(int at, int side, const Sizes& s) { return at < side - s.window ? 0 : at < side - s.shift ? 1 : 2; }

template <int L, class Number> class Worker {
    using Vector = typename Lanes<L>::Vector;

   public:
    Worker(const Pictures& pictures, const Block& block, const Sizes& sizes, char* own)
        : given_(pictures),
          block_(block),
          s(sizes),
          in(room<Number>(sizes)),
          area_(sizes.window * sizes.window),
          attention_({area_, sizes.channels / sizes.heads}, own) {
        normed_ = reinterpret_cast<Number*>(own + in.normed);
        qkv_ = reinterpret_cast<Number*>(own + in.qkv);
        pixels_ = reinterpret_cast<float*>(own + in.pixels);
        hidden_ = reinterpret_cast<Number*>(own + in.hidden);
        regions_ = reinterpret_cast<float*>(own + in.regions);
        places_ = reinterpret_cast<int64_t*>(own + in.places);
    }

    void compute(int64_t window) {
        fetch(window);
        attend();
        const Rows<const Number> attended{normed_, in.step};
        apply<L>(block_.projection, attended, area_, s.channels, s.channels, [&](int row, int at, Vector sum) {
            float* to = pixels_ + row * in.wide + at;
            Lanes<L>::store(to, Lanes<L>::load(to) + sum);
        });
        for (int first = 0; first < area_; first += TOGETHER) perceive(first, std::min(TOGETHER, area_ - first));
        for (int k = 0; k < area_; ++k)
            std::memcpy(given_.result + places_[k], pixels_ + k * in.wide, s.channels * sizeof(float));
    }

   private:
    // The window's pixels, what is added to them, and the norm of them.
    void fetch(int64_t window) {
        const int across = s.width / s.window, down = s.height / s.window;
        const int left = int(window % across) * s.window, top = int(window / across % down) * s.window;
        const int64_t picture = window / (int64_t(across) * down);
        masked_ = s.shift && (left + s.window == s.width || top + s.window == s.height);
        int k = 0;
        for (int y = top; y < top + s.window; ++y) {
            for (int x = left; x < left + s.window; ++x, ++k) {
                const int64_t row = (y + s.shift) % s.height, column = (x + s.shift) % s.width;
                const int64_t place = places_[k] = ((picture * s.height + row) * s.width + column) * s.channels;
                regions_[k] = float(3 * region(y, s.height, s) + region(x, s.width, s));
                const float* from = given_.x + place;
                float* to = pixels_ + k * in.wide;
                std::memcpy(to, from, s.channels * sizeof(float));
                normalize<L>(to, s.channels, block_.epsilons[0], normed_ + k * in.step);
                if (given_.added)
                    for (int c = 0; c < s.channels; ++c) to[c] += given_.added[place + c] * given_.scale;
            }
        }
    }

    // From the norm of the pixels, whose place it takes.
    void attend() {
        const int channels = s.channels, each = channels / s.heads;
        apply<L>(block_.queries_keys_values, Rows<const Number>{normed_, in.step}, area_, channels, 3 * channels,
                 [&](int row, int at, Vector sum) { store<L>(qkv_ + row * in.layers + at, sum); });
        for (int h = 0; h < s.heads; ++h) {
            const Number* mine = qkv_ + h * each;
            attention_.pack({mine + channels, in.layers}, {mine + 2 * channels, in.layers});
            for (int first = 0; first < area_; first += RUN) {
                const float* biases = block_.biases + (int64_t(h) * area_ + first) * area_;
                const auto bias = [&](int row, int column) {
                    const Vector same = Lanes<L>::load(biases + int64_t(row) * area_ + column);
                    if (!masked_) return same;
                    const Vector other = Lanes<L>::load(regions_ + column);
                    return other == regions_[first + row] ? same : same + APART;
                };
                Number* to = normed_ + first * in.step + h * each;
                attention_.attend(
                    Rows<const Number>{mine + first * in.layers, in.layers}, std::min(RUN, area_ - first), bias,
                    [&](int row, int k, Vector attended) { store<L>(to + row * in.step + k * L, attended); });
            }
        }
    }

    // The layers behind attention, for `count` pixels.
    void perceive(int first, int count) {
        for (int k = first; k < first + count; ++k)
            normalize<L>(pixels_ + k * in.wide, s.channels, block_.epsilons[1], normed_ + k * in.step);
        const Rows<const Number> normed{normed_ + first * in.step, in.step};
        apply<L>(block_.first, normed, count, s.channels, s.hidden, [&](int row, int at, Vector sum) {
            store<L>(hidden_ + row * in.hidden_step + at, gelu<L>(sum));
        });
        const Rows<const Number> hidden{hidden_, in.hidden_step};
        apply<L>(block_.second, hidden, count, s.hidden, s.channels, [&](int row, int at, Vector sum) {
            float* to = pixels_ + (first + row) * in.wide + at;
            Lanes<L>::store(to, Lanes<L>::load(to) + sum);
        });
    }

    const Pictures& given_;
    const Block& block_;
    const Sizes& s;
    const Room in;
    const int area_;
    Attention<L, Number> attention_;
    Number *normed_, *qkv_, *hidden_;
    float *pixels_, *regions_;
    int64_t* places_;
    bool masked_ = false;
};

template <int L, class Number>
void run(const Pictures& pictures, const Block& block, const Sizes& s, char* scratch) {
    const int64_t size = room<Number>(s).end;
    int taken = 0;
#pragma omp parallel num_threads(s.threads)
    {
        int mine;
#pragma omp atomic capture
        mine = taken++;
        Worker<L, Number> worker(pictures, block, s, scratch + mine * size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t k = 0; k < s.count; ++k) worker.compute(s.first + k);
    }
}

}  // namespace

extern "C" {

// The floats in a register: layers' outputs are filled up to a multiple of it.
int widest() { return WIDEST; }

// Bytes of scratch that `compute` needs for these sizes.
int64_t scratch_bytes(const Sizes* sizes) {
    return (sizes->bfloat16 ? room<BFloat16>(*sizes) : room<float>(*sizes)).end * sizes->threads;
}

// `count` windows from the `first` on, of all pictures' in their order. Windows' sides are multiples of 4; channels, a head's and
// the hidden layer's are even.
void compute(const Pictures* pictures, const Block* block, const Sizes* sizes, void* scratch) {
    char* room = static_cast<char*>(scratch);
    if (sizes->bfloat16)
        run<WIDEST, BFloat16>(*pictures, *block, *sizes, room);
    else
        run<WIDEST, float>(*pictures, *block, *sizes, room);
}
}
