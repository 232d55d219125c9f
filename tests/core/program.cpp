// Every kernel of the core in a program of its own, without Python and torch.
//
//   sslspec_core               runs each kernel on 1 and on 4 threads, and twice at once: the results must have equal bits
//   sslspec_core write FILE    writes the results
//   sslspec_core compare FILE  compares the results with those of another machine, which must be equal to rounding
//   sslspec_core sum           a race planted in tasks of parallel_for: ThreadSanitizer must report it
//   sslspec_core pairs         one planted in the schedule of block pairs
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <thread>

#include "every_kernel.h"
#include "pairwise/cpu/pair_schedule.h"
#include "simd/isa.h"

// GCC's ThreadSanitizer does not see how libgomp joins its threads and would report what is no race, so the functions
// that the kernels need of OpenMP are here, made of std::thread.
namespace {
thread_local int thread_number = 0;
}

extern "C" int omp_get_thread_num() { return thread_number; }

extern "C" void GOMP_parallel(void (*region)(void*), void* shared, unsigned threads, unsigned) {
  // All begin at once, or the first would be done before the last is there. Relaxed: this orders nothing else.
  std::atomic<unsigned> here{0};
  const auto run = [&](unsigned number) {
    thread_number = static_cast<int>(number);
    here.fetch_add(1, std::memory_order_relaxed);
    while (here.load(std::memory_order_relaxed) < threads) std::this_thread::yield();
    region(shared);
  };
  std::vector<std::thread> team;
  for (unsigned t = 1; t < threads; ++t) team.emplace_back(run, t);
  run(0);
  for (std::thread& t : team) t.join();
}

namespace sslspec {
namespace {

int same_bits() {
  const auto expected = every_kernel(1);
  std::vector<Result> first, second;  // two callers at once, as two threads of Python are
  std::thread caller([&] { first = every_kernel(4); });
  second = every_kernel(4);
  caller.join();
  const bool equal = first == expected && second == expected;
  size_t bytes = 0;
  for (const Result& array : expected) bytes += array.bytes.size();
  std::printf("%s: %zu bytes of results, %s for 1 and 4 threads\n", cpu::isa_name(), bytes,
              equal ? "equal" : "DIFFERENT");
  return equal ? 0 : 1;
}

// ---- files: "kernel digits wide size\n" and the bytes, array after array -------------------------------------------

struct File {
  std::FILE* handle;
  File(const char* path, const char* mode) : handle(std::fopen(path, mode)) {
    if (handle == nullptr) throw std::runtime_error(std::string("cannot open ") + path);
  }
  File(const File&) = delete;
  ~File() { std::fclose(handle); }
};

int write(const char* path) {
  const File file(path, "wb");
  for (const Result& a : every_kernel(2)) {
    std::fprintf(file.handle, "%s %d %d %zu\n", a.kernel.c_str(), a.digits, a.wide, a.bytes.size());
    if (std::fwrite(a.bytes.data(), 1, a.bytes.size(), file.handle) != a.bytes.size())
      throw std::runtime_error("the results were not written whole");
  }
  return 0;
}

std::vector<Result> read(const char* path) {
  const File file(path, "rb");
  std::vector<Result> arrays;
  char kernel[64];
  int digits, wide;
  size_t size;
  while (std::fscanf(file.handle, "%63s %d %d %zu", kernel, &digits, &wide, &size) == 4) {
    std::fgetc(file.handle);
    Result array{kernel, digits, wide != 0, 0, std::vector<unsigned char>(size)};
    if (std::fread(array.bytes.data(), 1, size, file.handle) != size)
      throw std::runtime_error("the file of results ends too early");
    arrays.push_back(std::move(array));
  }
  return arrays;
}

// max |x - y| / max |y|
template <typename T>
double largest_difference(const Result& ours, const Result& theirs) {
  const size_t count = theirs.bytes.size() / sizeof(T);
  const auto at = [](const Result& a, size_t i) {
    T x;
    std::memcpy(&x, a.bytes.data() + i * sizeof(T), sizeof(T));
    return static_cast<double>(x);
  };
  double difference = 0, largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const double x = at(ours, i), y = at(theirs, i);
    if (!std::isfinite(x) || !std::isfinite(y)) return INFINITY;
    difference = std::max(difference, std::abs(x - y));
    largest = std::max(largest, std::abs(y));
  }
  return difference == 0 ? 0 : difference / largest;
}

int compare(const char* path) {
  const auto ours = every_kernel(2), theirs = read(path);
  bool equal = !theirs.empty() && ours.size() == theirs.size();
  struct Units {
    double most = 0, allowed = 0;
  };
  std::map<std::pair<std::string, int>, Units> worst;  // of a kernel, in the last place
  for (size_t i = 0; equal && i < ours.size(); ++i) {
    const Result &a = ours[i], &b = theirs[i];
    equal = a.kernel == b.kernel && a.digits == b.digits && a.wide == b.wide && a.bytes.size() == b.bytes.size();
    if (!equal) break;
    const double difference = a.wide ? largest_difference<double>(a, b) : largest_difference<float>(a, b);
    Units& units = worst[{a.kernel, a.digits}];
    units = {std::max(units.most, std::ldexp(difference, a.digits - 1)), a.units};
  }
  if (!equal) std::printf("%s: the file holds other arrays (%zu, here %zu)\n", path, theirs.size(), ours.size());
  for (const auto& [kernel, units] : worst) {
    const bool close = units.most <= units.allowed;
    std::printf("%-18s %2d bits: %7.2f units in the last place of the largest entry%s\n", kernel.first.c_str(),
                kernel.second, units.most, close ? "" : ", TOO FAR");
    equal = equal && close;
  }
  return equal ? 0 : 1;
}

// Long enough for every thread to get a share of the tasks.
void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

// Nothing keeps two tasks from adding at once.
void planted_sum() {
  double sum = 0;
  cpu::parallel_for(100, 4, [&](int64_t t) {
    pause();
    sum += static_cast<double>(t);
  });
  std::printf("planted: %g\n", sum);
}

// A pair (i, j) owns the blocks i and j, and writes to the one behind j as well.
void planted_pairs() {
  constexpr int64_t kBlocks = 64;
  std::vector<double> block(kBlocks + 1);
  cpu::for_symmetric_pairs(kBlocks, 4, [&](int64_t i, int64_t j) {
    pause();
    block[i] += 1, block[j] += 1, block[j + 1] += 1;
  });
  std::printf("planted: %g\n", block[0]);
}

}  // namespace
}  // namespace sslspec

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "sum") return sslspec::planted_sum(), 0;
  if (what == "pairs") return sslspec::planted_pairs(), 0;
  if (what == "write" && argc == 3) return sslspec::write(argv[2]);
  if (what == "compare" && argc == 3) return sslspec::compare(argv[2]);
  return sslspec::same_bits();
}
