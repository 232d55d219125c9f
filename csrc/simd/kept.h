// One buffer of the process, in which a forward pass keeps what its backward pass would otherwise compute again.
//
// The last pass that wrote owns the content, and a number names it: a backward pass that finds another number computes
// again, with the same bits. So nothing has to be given back, and a step that is interrupted, repeated or nested in
// another one is only slower. The buffer is used by one call at a time; a call that finds it in use goes without.
// Memory: at most `kept_limit()` bytes, on huge pages where the system has them (a fresh small page costs as much as
// the products that it holds), until `release_kept`.
#pragma once
#include <cstdint>

namespace sslspec::cpu {

int64_t kept_limit();                // bytes; 64 MiB unless set
void set_kept_limit(int64_t bytes);  // frees a larger buffer; 0: nothing is kept
void release_kept();                 // frees the buffer; what it held is computed again

// The buffer, for the lifetime of the object.
class Kept {
 public:
  Kept() = default;
  explicit Kept(int64_t bytes);      // to write at most that many: data() is null where there is no room
  static Kept read(int64_t number);  // data() is null unless that was the last to write
  Kept(Kept&& other) noexcept;
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  int64_t number() const { return number_; }  // of the content; 0: none

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0, number_ = 0;
};

}  // namespace sslspec::cpu
