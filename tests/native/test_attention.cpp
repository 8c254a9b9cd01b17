// Attention forward and backward against their formulas in double precision, on every set of kernels that this machine can run. q, k and v
// are slices of rows with gaps full of NaN, so that a read beyond a slice shows; what lies between the rows of a result must stay.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "attention/convert.h"
#include "check.h"
#include "sets.h"

namespace {

using namespace esat;
using namespace esat::attention;

using Doubles = std::vector<double>;
constexpr float kGuard = -77;  // exact in every dtype
constexpr std::int64_t kBatch = 2, kHeads = 2, kTemplate = 1, kGap = 5;
// Several tiles of keys and blocks of queries, and a part of one; and where a NaN is put. Fewer on an emulated processor, which is slow.
#ifdef ESAT_EMULATED
constexpr std::int64_t kManyTokens = 151, kNanTokens = 33;
#else
constexpr std::int64_t kManyTokens = 343, kNanTokens = 65;
#endif

constexpr std::int64_t kWholeTokens = 96;  // whole blocks of queries on every set

std::mt19937 engine(11);

std::int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }
double unit(Dtype dtype) { return dtype == Dtype::f32 ? 6e-8 : dtype == Dtype::bf16 ? 0.00391 : 0.00049; }
const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "float32" : dtype == Dtype::bf16 ? "bfloat16" : "float16"; }

// `parts` tensors [batch, heads, tokens, dim] side by side in rows of one buffer, each row followed by a gap.
struct Rows {
  Dtype dtype;
  std::int64_t tokens, dim, parts;
  Strides strides{};
  std::vector<char> bytes;

  Rows(const Problem& p, std::int64_t parts_in, float fill) : dtype(p.dtype), tokens(p.tokens), dim(p.head_dim), parts(parts_in) {
    strides.token = parts * kHeads * dim + kGap;
    strides.head = dim;
    strides.batch = tokens * strides.token;
    bytes.resize(static_cast<std::size_t>(kBatch * strides.batch * size_of(dtype)));
    for (std::int64_t i = 0; i < kBatch * strides.batch; ++i) write_float(bytes.data(), dtype, i, fill);
  }
  std::int64_t index(std::int64_t part, std::int64_t b, std::int64_t h, std::int64_t t, std::int64_t i) const {
    return b * strides.batch + h * strides.head + t * strides.token + part * kHeads * dim + i;
  }
  void* part(std::int64_t which) { return bytes.data() + which * kHeads * dim * size_of(dtype); }
  float at(std::int64_t index) const {
    float value;
    read_floats(bytes.data(), dtype, index, 1, &value);
    return value;
  }
  // [batch, heads, tokens, dim] of one part.
  Doubles values(std::int64_t which) const {
    Doubles out;
    for (std::int64_t b = 0; b < kBatch; ++b)
      for (std::int64_t h = 0; h < kHeads; ++h)
        for (std::int64_t t = 0; t < tokens; ++t)
          for (std::int64_t i = 0; i < dim; ++i) out.push_back(at(index(which, b, h, t, i)));
    return out;
  }
  void randomise(std::int64_t which, float spread) {
    std::normal_distribution<float> normal(0, spread);
    for (std::int64_t b = 0; b < kBatch; ++b)
      for (std::int64_t h = 0; h < kHeads; ++h)
        for (std::int64_t t = 0; t < tokens; ++t)
          for (std::int64_t i = 0; i < dim; ++i) write_float(bytes.data(), dtype, index(which, b, h, t, i), normal(engine));
  }
  bool gaps_hold(float fill) const {
    for (std::int64_t row = 0; row < kBatch * tokens; ++row)
      for (std::int64_t i = 0; i < kGap; ++i)
        if (at((row + 1) * strides.token - kGap + i) != fill) return false;
    return true;
  }
};

struct Exact {
  Doubles out, lse, scores, dquery, dkey, dvalue;
};

// The formulas of esat_kernels/attention/reference.py. A NaN goes wherever they take it.
Exact exact(const Problem& p, const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& dout, std::int64_t score_row) {
  const std::int64_t n = p.tokens, d = p.head_dim;
  const double alpha = p.alpha, beta = p.beta, delta = p.delta, scale = p.scale;
  Exact e{Doubles(q.size()), {}, Doubles(static_cast<std::size_t>(kBatch * (n - kTemplate))), Doubles(q.size()), Doubles(q.size()),
          Doubles(q.size())};
  const auto dot = [d](const double* a, const double* b) {
    double sum = 0;
    for (std::int64_t i = 0; i < d; ++i) sum += a[i] * b[i];
    return sum;
  };
  Doubles p_row(n), attraction(n);
  for (std::int64_t head = 0; head < kBatch * kHeads; ++head) {
    const std::int64_t base = head * n * d;
    for (std::int64_t i = 0; i < n; ++i) {
      const double* qi = &q[base + i * d];
      double highest = -1e300, sum = 0;
      for (std::int64_t j = 0; j < n; ++j) {
        const double* kj = &k[base + j * d];
        const double product = dot(qi, kj), square = dot(qi, qi) + dot(kj, kj) - 2 * product;
        const double repulsion = delta * (square < 0 ? 0 : square);
        attraction[j] = std::exp(-repulsion);
        p_row[j] = scale * product + alpha * attraction[j] - beta * repulsion;
        highest = std::max(highest, p_row[j]);
      }
      for (auto& x : p_row) sum += x = std::exp(x - highest);
      for (auto& x : p_row) x /= sum;
      e.lse.push_back(highest + std::log(sum));
      double* out = &e.out[base + i * d];
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t c = 0; c < d; ++c) out[c] += p_row[j] * v[base + j * d + c];
      if (i == score_row)
        for (std::int64_t j = kTemplate; j < n; ++j) e.scores[head / kHeads * (n - kTemplate) + j - kTemplate] += p_row[j] / kHeads;
      const double *dout_i = &dout[base + i * d], row = dot(dout_i, out);
      double forces = 0, *dq = &e.dquery[base + i * d];
      for (std::int64_t j = 0; j < n; ++j) {
        const double* kj = &k[base + j * d];
        const double g = p_row[j] * (dot(dout_i, &v[base + j * d]) - row), force = g * (beta + alpha * attraction[j]);
        const double d_product = scale * g + 2 * delta * force;
        double *dk = &e.dkey[base + j * d], *dv = &e.dvalue[base + j * d];
        forces += force;
        for (std::int64_t c = 0; c < d; ++c) {
          dq[c] += d_product * kj[c];
          dk[c] += d_product * qi[c] - 2 * delta * kj[c] * force;
          dv[c] += p_row[j] * dout_i[c];
        }
      }
      for (std::int64_t c = 0; c < d; ++c) dq[c] -= 2 * delta * qi[c] * forces;
    }
  }
  return e;
}

// `relative` of the value's own size and `share` of the largest or of 1 (what cancels out was as large); NaN exactly where it is expected.
// infinities: or an infinity, which a set whose 2^-inf is 2^-126 has where others multiply 0 by infinity.
template <class Got>
void check_close(const char* what, const Got& got, const Doubles& want, double relative, double share, bool infinities = false) {
  double largest = 1, excess = 0;
  bool same_numbers = got.size() == want.size();
  for (const double x : want) largest = std::max(largest, std::isnan(x) ? 0 : std::abs(x));
  for (std::size_t i = 0; i < got.size() && same_numbers; ++i) {
    same_numbers = (infinities ? !std::isfinite(got[i]) : std::isnan(got[i])) == std::isnan(want[i]);
    if (!std::isnan(want[i])) excess = std::max(excess, std::abs(got[i] - want[i]) - relative * std::abs(want[i]) - share * largest);
  }
  CHECK(same_numbers);
  CHECK(excess <= 0);
  if (!same_numbers || excess > 0) {
    std::fprintf(stderr, "  %s: numbers where expected: %d, beyond the tolerance by %g\n", what, same_numbers, excess);
  }
}

// The set's own kernel is what it chooses for this operation.
bool has_kernel(const Set& set, const std::string& operation) {
  for (const Choice& row : choices(set.needs))
    if (row.operation == operation) return row.chosen == std::string(set.name);
  CHECK(false);
  return false;
}

struct Place {
  const char* tensor;  // "q", "k", "v", "dout", or "" for none
  float value;  // NaN; in "k" also -inf, with queries that make a score of -inf of it, or a number whose square overflows, unseen by them
};
constexpr std::int64_t kColumn = 7;  // of the head dimension

void check_case(const Problem& p, float spread, const Place& place) {
  const std::int64_t score_row = p.tokens > 3 ? 3 : 0;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Rows qkv(p, 3, nan), dout(p, 1, nan);
  for (std::int64_t part = 0; part < 3; ++part) qkv.randomise(part, part == 2 ? 1 : spread);
  dout.randomise(0, 1);
  const std::string tensor = place.tensor;
  if (!tensor.empty()) {
    Rows& rows = tensor == "dout" ? dout : qkv;
    const std::int64_t part = tensor == "k" ? 1 : tensor == "v" ? 2 : 0;
    write_float(rows.bytes.data(), p.dtype, rows.index(part, 1, 0, p.tokens / 2, kColumn), place.value);
  }
  for (std::int64_t row = 0; place.value != 0 && !std::isnan(place.value) && row < kBatch * p.tokens; ++row) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      const std::int64_t at = row * qkv.strides.token + h * p.head_dim + kColumn;
      write_float(qkv.bytes.data(), p.dtype, at, std::isinf(place.value) ? std::abs(qkv.at(at)) + 1 : 0);
    }
  }
  const Doubles dout_values = dout.values(0);
  const Exact want = exact(p, qkv.values(0), qkv.values(1), qkv.values(2), dout_values, score_row);

  for (const Set& set : testing::sets()) {
    // Tiles and pairs of bf16 round probabilities to bf16 as well.
    const bool rounds = p.dtype == Dtype::bf16 && (set.needs & kAvx512Bf16) != 0;
    const bool far = spread > 1;  // scores of hundreds, which float32 holds to 1e-5 or so
    const double share = (rounds ? 2e-2 : 1e-5) + (far ? 2e-6 * spread * spread : 0), u = unit(p.dtype), of_lse = rounds ? 2e-4 : 3e-6;
    const int failures = testing::failures;
    if (has_kernel(set, std::string("attention ") + name_of(p.dtype))) {
      Rows out(p, 1, kGuard);
      std::vector<float> lse(want.lse.size()), scores(want.scores.size());
      const Counters counters = forward({p, qkv.part(0), qkv.part(1), qkv.part(2), qkv.strides, qkv.strides, qkv.strides, out.part(0),
                                         out.strides, lse.data(), scores.data(), kTemplate, score_row},
                                        set.needs);
      if (far) CHECK(counters.redone_rows > 0);
      check_close("out", out.values(0), want.out, u, share);
      check_close("lse", lse, want.lse, of_lse, of_lse + 3e-6);
      check_close("scores", scores, want.scores, rounds ? 2e-2 : far ? share : 2e-5, 1e-6);
      CHECK(out.gaps_hold(kGuard));
      Rows alone(p, 1, kGuard);  // without sums for a log-sum-exp: loops of their own on some sets
      forward({p, qkv.part(0), qkv.part(1), qkv.part(2), qkv.strides, qkv.strides, qkv.strides, alone.part(0), alone.strides, nullptr,
               nullptr, 0, 0},
              set.needs);
      check_close("out alone", alone.values(0), want.out, u, share);
    }
    if (!far && has_kernel(set, std::string("attention backward ") + name_of(p.dtype))) {
      Rows out(p, 1, nan), grads(p, 3, kGuard);
      std::vector<float> lse(want.lse.begin(), want.lse.end());
      std::size_t next = 0;
      for (std::int64_t b = 0; b < kBatch; ++b)
        for (std::int64_t h = 0; h < kHeads; ++h)
          for (std::int64_t t = 0; t < p.tokens; ++t)
            for (std::int64_t i = 0; i < p.head_dim; ++i)
              write_float(out.bytes.data(), p.dtype, out.index(0, b, h, t, i), static_cast<float>(want.out[next++]));
      backward({p, dout.part(0), qkv.part(0), qkv.part(1), qkv.part(2), out.part(0), dout.strides, qkv.strides, qkv.strides, qkv.strides,
                out.strides, lse.data(), grads.part(0), grads.part(1), grads.part(2), grads.strides},
               set.needs);
      // `out` comes rounded to the dtype: an error of u / 2 in every row's sum dP P.
      const double of_grads = share + (p.dtype == Dtype::f32 ? 0 : 2 * u);
      const bool infinities = std::isinf(place.value);
      check_close("dq", grads.values(0), want.dquery, u, of_grads, infinities);
      check_close("dk", grads.values(1), want.dkey, u, of_grads, infinities);
      check_close("dv", grads.values(2), want.dvalue, u, of_grads, infinities);
      CHECK(grads.gaps_hold(kGuard));
    }
    if (testing::failures != failures) {
      std::fprintf(stderr, "  on %s: %s, N %d, D %d, alpha %g, beta %g, %g in '%s'\n", set.name, name_of(p.dtype),
                   static_cast<int>(p.tokens), static_cast<int>(p.head_dim), p.alpha, p.beta, place.value, place.tensor);
    }
  }
}

Problem problem(Dtype dtype, std::int64_t tokens, std::int64_t dim, float alpha, float beta) {
  return {dtype, kBatch, kHeads, tokens, dim, alpha, beta, 0.125F, 1 / std::sqrt(static_cast<float>(dim))};
}

}  // namespace

int main() {
  for (const Set& set : testing::sets()) std::printf("%s\n", set.name);
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    for (const std::int64_t tokens : {1, 7, 65}) {
      for (const std::int64_t dim : {32, 40, 64}) {
        if (dtype != Dtype::f32 && dim == 32) continue;
        check_case(problem(dtype, tokens, dim, 0.1F, 0.1F), 1, {"", 0});
        check_case(problem(dtype, tokens, dim, 1, 0.5F), 0.3F, {"", 0});  // near: the attraction counts
      }
    }
    check_case(problem(dtype, 65, 64, 0, 0), 1, {"", 0});
    for (const float spread : {4.0F, 12.0F}) {  // scores beyond what a bound allows: rows are done again with their exact maximum
      check_case(problem(dtype, 65, 64, 0.1F, 0.1F), spread, {"", 0});
      check_case(problem(dtype, 65, 64, 0, 0), spread, {"", 0});
    }
    for (const char* tensor : {"q", "k", "v", "dout"}) {
      check_case(problem(dtype, kNanTokens, 64, 0.1F, 0.1F), 1, {tensor, std::numeric_limits<float>::quiet_NaN()});
      check_case(problem(dtype, kNanTokens, 64, 0, 0), 1, {tensor, float_from_bits(0x7fffffffU)});
    }
    // Strong and near: AMX asks the queries of a tile together whether their attraction counts. The NaN is in the last one of a tile.
    check_case(problem(dtype, 31, 64, 4, 0.1F), 0.3F, {"q", std::numeric_limits<float>::quiet_NaN()});
    if (dtype != Dtype::f16) check_case(problem(dtype, kNanTokens, 64, 0, 0), 1, {"k", 1e20F});
    for (const std::int64_t tokens : {kWholeTokens, kNanTokens}) {  // and a last block that is not whole
      check_case(problem(dtype, tokens, 64, 0.1F, 0.1F), 1, {"k", -std::numeric_limits<float>::infinity()});
    }
  }
  check_case(problem(Dtype::f32, kManyTokens, 64, 0.1F, 0.1F), 1, {"", 0});
  return testing::failures == 0 ? 0 : 1;
}
