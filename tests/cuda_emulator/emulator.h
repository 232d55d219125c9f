// Runs CUDA kernels on the host, so that their indexing, barriers, fragment layouts and ragged edges can be tested
// without a GPU. Every thread of a block is a fibre; a barrier or a warp-wide operation switches to the next one.
// Asynchronous copies land only when they are waited for, and shared memory starts as NaN and ends at a guard page:
// a missing wait, barrier or bound shows as a wrong result or a crash. Not modelled: time, memory ordering inside a
// warp beyond lockstep collectives, and registers.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <vector_types.h>

namespace emulator {

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
int lane();
unsigned char* shared_memory();  // dynamic

void block_barrier();
void warp_barrier();
const unsigned char* publish(const void* mine, int bytes);  // all lanes' values, 128 bytes apart, until the next call

template <typename T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= 128);
  return *reinterpret_cast<const T*>(publish(&value, sizeof(T)) + 128 * from);
}

void copy_later(void* to, const void* from, int bytes, bool valid);
void commit_copies();
void wait_copies(int pending);

// Barrier `id` (1 .. 15) of `threads` threads, some of which do not wait for it.
void numbered_barrier(int id, int threads, bool waits);

// A barrier in shared memory, 8 bytes, whose phases end when the arrivals and the announced bytes have come.
void init_barrier(uint64_t* barrier, int count);
void arrive(uint64_t* barrier, int bytes_to_come);
void wait_phase(uint64_t* barrier, int parity);
void land_later(uint64_t* barrier, int bytes, std::function<void()> copy);  // or at once

std::vector<std::string>& launches();  // names of all kernels that were launched, in order

void run(dim3 grid, int threads, size_t shared, const std::function<void()>& kernel);

}  // namespace emulator
