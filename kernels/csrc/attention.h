// softmax(queries . keys^T + biases) . values, of one head in one window and a few rows of queries at a time, whose scores
// never leave the first cache: what attention.cpp and transformer_block.cpp share.
#pragma once

#include <cmath>

#include "exponential.h"
#include "product.h"

namespace {

constexpr int RUN = 12;       // rows of scores at a time: with 256 columns 12 KB, which the first cache holds
constexpr int64_t LINE = 64;  // bytes of the cache

// How many keys there are, and channels of a head, even for bfloat16s.
struct Head {
    int columns, channels;
};

// What one head takes of a thread's memory, in bytes from its beginning.
struct Places {
    int64_t values, scores, shares, sums, end;
};

template <class Number> inline Places places(const Head& head) {
    const int64_t wide = rounded(head.channels + 1, WIDEST), number = sizeof(Number);
    const auto after = [](int64_t start, int64_t bytes) { return start + rounded(bytes, LINE); };
    Places p{};
    p.values = after(0, head.columns * rounded(head.channels, 2) * number);
    p.scores = after(p.values, head.columns * wide * number);
    p.shares = after(p.scores, RUN * head.columns * int64_t(sizeof(float)));
    p.sums = after(p.shares, RUN * head.columns * number);
    p.end = after(p.sums, RUN * wide * int64_t(sizeof(float)));
    return p;
}

// One number of all in a register, by halves; `operation` is one of registers.
template <int L, class Operation> inline float reduced(typename Lanes<L>::Vector value, const Operation& operation) {
    if constexpr (L == 1) {
        return value[0];
    } else {
        typename Lanes<L / 2>::Vector halves[2];
        std::memcpy(halves, &value, sizeof(halves));
        return reduced<L / 2>(operation(halves[0], halves[1]), operation);
    }
}

// Two rows of bfloat16s as pairs, the upper one's second; or a row of floats.
template <int L> inline void store_pairs(const BFloat16* first, const BFloat16* second, BFloat16* to) {
    for (int k = 0; k < L; ++k) {
        to[2 * k] = first[k];
        to[2 * k + 1] = second[k];
    }
}

template <int L> inline void store_pairs(const float* first, const float*, float* to) {
    Lanes<L>::store(to, Lanes<L>::load(first));
}

inline void set_one(float* number) { *number = 1.f; }
inline void set_one(BFloat16* number) { number->bits = 0x3f80; }

// Attention by one thread, whose `memory` of `places(head).end` bytes it takes. Rows of keys and values may be read up to
// a register beyond their end.
template <int L, class Number> class Attention {
    using Vector = typename Lanes<L>::Vector;
    static constexpr int TOGETHER = Step<L, Number>::CHANNELS;

   public:
    Attention(const Head& head, char* memory)
        : head_(head),
          even_(int(rounded(head.channels, TOGETHER))),
          wide_(int(rounded(head.channels, L))),
          counts_(wide_ > head.channels) {
        const Places in = places<Number>(head);
        keys_ = reinterpret_cast<Number*>(memory);
        values_ = reinterpret_cast<Number*>(memory + in.values);
        scores_ = reinterpret_cast<float*>(memory + in.scores);
        shares_ = reinterpret_cast<Number*>(memory + in.shares);
        sums_ = reinterpret_cast<float*>(memory + in.sums);
    }

    // The head's keys and values [columns][channels], as the products want them.
    void pack(Rows<const Number> keys, Rows<const Number> values) {
        pack_keys(keys);
        pack_values(values);
    }

    // `put(row, register, values)` what `count` rows of queries, RUN at most, attend to; `bias(row, column)` is what is
    // added to a register of scores.
    template <class Bias, class Put>
    void attend(Rows<const Number> queries, int count, const Bias& bias, const Put& put) {
        const int all = head_.columns;
        for (int o = 0; o < all; o += 2 * L) {
            const auto keep = [=, this_scores = scores_](int row, int k, Vector sum) {
                const int at = o + k * L;
                Lanes<L>::store(this_scores + row * all + at, sum + bias(row, at));
            };
            const Number* from = keys_ + int64_t(o) * even_;
            if (all - o > L)
                columns<L, 2>(queries, count, even_, from, keep);
            else
                columns<L, 1>(queries, count, even_, from, keep);
        }
        float total[RUN];
        for (int r = 0; r < count; ++r) total[r] = normalize(scores_ + r * all, shares_ + r * all);
        multiply<L, Number>({shares_, all}, count, all, values_, {sums_, wide_}, wide_);
        for (int r = 0; r < count; ++r) {
            const float* sums = sums_ + r * wide_;
            const float share = 1.f / (counts_ ? sums[head_.channels] : total[r]);
            for (int k = 0; k < wide_ / L; ++k) put(r, k, Lanes<L>::load(sums + k * L) * share);
        }
    }

   private:
    // Floats, or pairs of bfloat16s: words of four bytes, blocks of two registers' columns.
    void pack_keys(Rows<const Number> keys) {
        Number* to = keys_;
        for (int first = 0; first < head_.columns; first += 2 * L) {
            const int wide = std::min(2 * L, head_.columns - first);
            for (int k = 0; k < wide; ++k) {
                const Number* from = keys.from(first + k).data;
                for (int c = 0; c < even_; c += TOGETHER)
                    std::memcpy(to + (c / TOGETHER * wide + k) * TOGETHER, from + c, sizeof(float));
            }
            to += wide * even_;
        }
    }

    void pack_values(Rows<const Number> values) {
        Number* to = values_;
        for (int o = 0; o < wide_; o += 2 * L) {
            const int wide = std::min(2 * L, wide_ - o), one = head_.channels - o;
            for (int row = 0; row < head_.columns; row += TOGETHER) {
                for (int k = 0; k < wide; k += L)
                    store_pairs<L>(
                        values.from(row).data + o + k, values.from(row + TOGETHER - 1).data + o + k, to + k * TOGETHER);
                if (one < wide)  // a channel of ones: its sum is that of the shares
                    for (int i = 0; i < TOGETHER; ++i) set_one(to + one * TOGETHER + i);
                to += wide * TOGETHER;
            }
        }
    }

    // e^(score - largest) of a row of scores, its shares. Returns their sum, where no channel of ones tells it.
    float normalize(const float* scores, Number* shares) const {
        Vector largest = Lanes<L>::load(scores);
        for (int c = L; c < head_.columns; c += L) {
            const Vector score = Lanes<L>::load(scores + c);
            largest = score > largest ? score : largest;
        }
        const float top = reduced<L>(largest, [](auto a, auto b) { return a > b ? a : b; });
        Vector sum{};
        for (int c = 0; c < head_.columns; c += L) {
            const Vector share = exponential<L>(Lanes<L>::load(scores + c) - top);
            store<L>(shares + c, share);
            sum += share;
        }
        return counts_ ? 0.f : reduced<L>(sum, [](auto a, auto b) { return a + b; });
    }

    const Head head_;
    const int even_, wide_;
    const bool counts_;
    Number *keys_, *values_, *shares_;
    float *scores_, *sums_;
};

}  // namespace
