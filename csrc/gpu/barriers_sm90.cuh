// Barriers among parts of a block: numbered ones for warps, and barriers in shared memory that also count the bytes of
// copies (compute capability 9.0).
#pragma once
#include "gpu/copy.cuh"

namespace sslspec::cuda {

// Barrier `id` (1 .. 15) of `threads` threads, whole warps: those of sync_at wait for all, those of arrive_at for none.
// What a thread wrote before either is there for those that have waited.
__device__ __forceinline__ void sync_at(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_at(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// Phases 0, 1, 2, ... end one after the other, each when `count` arrivals and all bytes that were announced have come.
class SharedBarrier {
 public:
  __device__ __forceinline__ void init(int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(&word)), "r"(count) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(&word)) : "memory");
  }
  __device__ __forceinline__ void arrive_before(int bytes) {  // that are still to come
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(&word)), "r"(bytes)
                 : "memory");
  }
  // Until a phase of that parity has ended; the one before the first counts as odd.
  __device__ __forceinline__ void wait(int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(shared_address(&word)),
        "r"(parity)
        : "memory");
  }

  uint64_t word;
};

// What init() did becomes known to the copies; a __syncthreads follows.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

}  // namespace sslspec::cuda
