#include "simd/kept.h"

#include <atomic>
#include <cstdlib>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sslspec::cpu {
namespace {

constexpr int64_t kPage = int64_t{2} << 20;  // a huge page

struct Buffer {
  std::mutex in_use;
  std::atomic<int64_t> limit{int64_t{64} << 20};  // changed while in_use is held, read at any time
  void* data = nullptr;
  int64_t capacity = 0;
  int64_t number = 0, last = 0, written = 0;  // of the content (0: none), of the last write ever, its bytes
};

Buffer& buffer() {
  static Buffer* const only = new Buffer;  // never destroyed: threads may outlive static objects
  return *only;
}

void release(Buffer& b) {
#if defined(__linux__)
  if (b.data != nullptr) munmap(b.data, static_cast<size_t>(b.capacity + kPage));
#else
  std::free(b.data);
#endif
  b.data = nullptr, b.capacity = b.number = 0;
}

void* aligned(void* p) { return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + kPage - 1) / kPage * kPage); }

void reserve(Buffer& b, int64_t bytes) {
  if (bytes <= b.capacity) return;
  release(b);
  const int64_t capacity = (bytes + kPage - 1) / kPage * kPage;
#if defined(__linux__)
  void* p =
      mmap(nullptr, static_cast<size_t>(capacity + kPage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return;
  madvise(aligned(p), static_cast<size_t>(capacity), MADV_HUGEPAGE);  // a wish: small pages work too
#else
  void* p = std::malloc(static_cast<size_t>(capacity + kPage));
  if (p == nullptr) return;
#endif
  b.data = p, b.capacity = capacity;
}

}  // namespace

int64_t kept_limit() { return buffer().limit; }

void set_kept_limit(int64_t bytes) {
  Buffer& b = buffer();
  const std::lock_guard<std::mutex> lock(b.in_use);
  b.limit = bytes;
  if (b.capacity > bytes) release(b);
}

void release_kept() {
  const std::lock_guard<std::mutex> lock(buffer().in_use);
  release(buffer());
}

Kept::Kept(int64_t bytes) {
  Buffer& b = buffer();
  if (bytes <= 0 || !b.in_use.try_lock()) return;
  const int64_t limit = b.limit, room = bytes < limit ? bytes : limit;
  if (room > 0) reserve(b, room);
  if (room > 0 && b.data != nullptr)
    data_ = aligned(b.data), bytes_ = b.written = room, number_ = b.number = ++b.last;
  else
    b.in_use.unlock();
}

Kept Kept::read(int64_t number) {
  Buffer& b = buffer();
  Kept kept;
  if (number == 0 || !b.in_use.try_lock()) return kept;
  if (number == b.number)
    kept.data_ = aligned(b.data), kept.bytes_ = b.written, kept.number_ = number;
  else
    b.in_use.unlock();
  return kept;
}

Kept::Kept(Kept&& other) noexcept : data_(other.data_), bytes_(other.bytes_), number_(other.number_) {
  other.data_ = nullptr;
}

Kept::~Kept() {
  if (data_ != nullptr) buffer().in_use.unlock();
}

}  // namespace sslspec::cpu
