#include "emulator.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <vector>

// Saves the callee-saved registers on the current stack and continues on the other one (System V x86-64).
asm(R"(
.text
.globl emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void emulator_switch(void** save, void* load);

namespace emulator {
namespace {

constexpr size_t kStack = 512 * 1024;

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool valid;
};
struct Fibre {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  bool done = false;
  int parity = 0;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};
struct Warp {
  alignas(128) unsigned char slots[2][32 * 128];
  int arrived = 0, generation = 0, live = 0;
};

std::vector<Fibre> fibres;
std::vector<Warp> warps;
int current = 0, live = 0, arrived = 0, generation = 0;
dim3 grid, block;
uint3 block_id;
unsigned char *shared_base = nullptr, *shared_start = nullptr;
void* main_stack = nullptr;
const std::function<void()>* body = nullptr;

void yield() {
  const int from = current, count = static_cast<int>(fibres.size());
  do current = (current + 1) % count;
  while (fibres[current].done && current != from);
  if (current != from) emulator_switch(&fibres[from].stack_pointer, fibres[current].stack_pointer);
}

void entry() {
  (*body)();
  Fibre& f = fibres[current];
  for (const auto& g : f.groups)
    if (!g.empty()) {
      std::abort();
    }  // copies still in flight at the end of the kernel
  f.done = true;
  --live;
  --warps[current / 32].live;
  void* ignored;
  if (live == 0) emulator_switch(&ignored, main_stack);
  int next = current;
  do next = (next + 1) % static_cast<int>(fibres.size());
  while (fibres[next].done);
  current = next;
  emulator_switch(&ignored, fibres[next].stack_pointer);
  std::abort();
}

}  // namespace

uint3 thread_index() { return {static_cast<unsigned>(current), 0, 0}; }
uint3 block_index() { return block_id; }
dim3 block_size() { return block; }
dim3 grid_size() { return grid; }
int lane() { return current % 32; }
unsigned char* shared_memory() { return shared_start; }

void block_barrier() {
  const int mine = generation;
  if (++arrived == static_cast<int>(block.x)) {  // every thread of the block, as on the device
    arrived = 0;
    ++generation;
    return;
  }
  while (generation == mine) {
    if (live < static_cast<int>(block.x)) std::abort();  // a thread left the kernel: this barrier would hang
    yield();
  }
}

void warp_barrier() {
  Warp& w = warps[current / 32];
  const int mine = w.generation;
  if (++w.arrived == 32) {
    w.arrived = 0;
    ++w.generation;
    return;
  }
  while (warps[current / 32].generation == mine) {
    if (warps[current / 32].live < 32) std::abort();
    yield();
  }
}

const unsigned char* publish(const void* mine, int bytes) {
  Fibre& f = fibres[current];
  unsigned char* slots = warps[current / 32].slots[f.parity];
  f.parity ^= 1;
  std::memcpy(slots + 128 * lane(), mine, static_cast<size_t>(bytes));
  warp_barrier();
  return slots;
}

void copy_later(void* to, const void* from, int bytes, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes)) std::abort();
  fibres[current].open.push_back({to, from, bytes, valid});
}
void commit_copies() {
  Fibre& f = fibres[current];
  f.groups.push_back(std::move(f.open));
  f.open.clear();
}
void wait_copies(int pending) {
  Fibre& f = fibres[current];
  while (static_cast<int>(f.groups.size()) > pending) {
    for (const Copy& c : f.groups.front())
      if (c.valid)
        std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
      else
        std::memset(c.to, 0, static_cast<size_t>(c.bytes));
    f.groups.pop_front();
  }
}

std::vector<std::string>& launches() {
  static std::vector<std::string> names;
  return names;
}

void run(dim3 grid_shape, int threads, size_t shared, const std::function<void()>& kernel) {
  constexpr size_t kPage = 4096;
  const size_t room = (shared + kPage - 1) / kPage * kPage;
  if (shared > 232448) throw std::runtime_error("emulator: more shared memory than any block may have");
  shared_base = static_cast<unsigned char*>(
      mmap(nullptr, room + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(shared_base + room, kPage, PROT_NONE);
  shared_start = shared_base + (room - (shared + 127) / 128 * 128);
  grid = grid_shape, block = dim3(static_cast<unsigned>(threads)), body = &kernel;
  std::vector<unsigned char*> stacks(static_cast<size_t>(threads));
  for (auto& s : stacks)
    s = static_cast<unsigned char*>(
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_id = {x, y, z};
        std::memset(shared_start, 0xff, shared);
        fibres.assign(static_cast<size_t>(threads), Fibre{});
        warps.assign(static_cast<size_t>((threads + 31) / 32), Warp{});
        live = threads, arrived = 0, current = 0;
        for (int t = 0; t < threads; ++t) {
          Fibre& f = fibres[static_cast<size_t>(t)];
          ++warps[static_cast<size_t>(t / 32)].live;
          f.stack = stacks[static_cast<size_t>(t)];
          auto* top = reinterpret_cast<void**>(f.stack + kStack - 64);  // 16-byte aligned before the return address
          *--top = nullptr;
          *--top = reinterpret_cast<void*>(&entry);
          for (int r = 0; r < 6; ++r) *--top = nullptr;
          f.stack_pointer = top;
        }
        emulator_switch(&main_stack, fibres[0].stack_pointer);
      }
  for (auto* s : stacks) munmap(s, kStack);
  munmap(shared_base, room + kPage);
}

}  // namespace emulator
