#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
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

// Many turns in which nothing else happened: each thread that is left waits for another one.
int turns_without_change = 0;
void wait_for_others() {
  if (++turns_without_change > 1000000) std::abort();
  yield();
}

struct Numbered {
  int arrived = 0, threads = 0, generation = 0;
};
Numbered numbered[16];

struct Phases {  // of a barrier in shared memory
  uint16_t count, missing;
  uint32_t bytes : 31, phase : 1;
  void end_if_complete() {
    if (missing != 0 || bytes != 0) return;
    missing = count, phase ^= 1;
    turns_without_change = 0;
  }
};
static_assert(sizeof(Phases) == 8);
struct Landing {
  uint64_t* barrier;
  int bytes;
  std::function<void()> copy;
};
std::vector<Landing> landing;
uint64_t random_bits = 0;  // the same in every block
void arrived_bytes(uint64_t* barrier, int bytes) {
  Phases& b = *reinterpret_cast<Phases*>(barrier);
  b.bytes -= static_cast<unsigned>(bytes);
  b.end_if_complete();
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

void numbered_barrier(int id, int threads, bool waits) {
  Numbered& b = numbered[id];
  if (b.threads != 0 && b.threads != threads) std::abort();  // all must say the same number
  b.threads = threads;
  const int mine = b.generation;
  if (++b.arrived == threads) {
    b = {0, 0, mine + 1};
    turns_without_change = 0;
    return;
  }
  while (waits && numbered[id].generation == mine) wait_for_others();
}

void init_barrier(uint64_t* barrier, int count) {
  const Phases fresh = {static_cast<uint16_t>(count), static_cast<uint16_t>(count), 0, 0};
  std::memcpy(barrier, &fresh, sizeof(fresh));
}

void arrive(uint64_t* barrier, int bytes_to_come) {
  Phases& b = *reinterpret_cast<Phases*>(barrier);
  if (b.missing == 0) std::abort();  // more arrivals than were announced
  --b.missing, b.bytes += bytes_to_come;
  b.end_if_complete();
}

void wait_phase(uint64_t* barrier, int parity) {
  Phases& b = *reinterpret_cast<Phases*>(barrier);
  for (;;) {
    for (size_t k = 0; k < landing.size(); ++k)
      if (landing[k].barrier == barrier) {
        landing[k].copy();
        arrived_bytes(barrier, landing[k].bytes);
        landing.erase(landing.begin() + static_cast<std::ptrdiff_t>(k--));
      }
    if (b.phase % 2 != static_cast<unsigned>(parity)) return;
    wait_for_others();
  }
}

void land_later(uint64_t* barrier, int bytes, std::function<void()> copy) {
  random_bits = random_bits * 6364136223846793005u + 1442695040888963407u;
  if (random_bits >> 63) return landing.push_back({barrier, bytes, std::move(copy)});
  copy();
  arrived_bytes(barrier, bytes);
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
        live = threads, arrived = 0, current = 0, turns_without_change = 0, random_bits = 1;
        std::fill(numbered, numbered + 16, Numbered{});
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
        const auto open = [](const Numbered& b) { return b.arrived != 0; };
        if (!landing.empty() || std::any_of(numbered, numbered + 16, open)) std::abort();  // nobody waited for them
      }
  for (auto* s : stacks) munmap(s, kStack);
  munmap(shared_base, room + kPage);
}

}  // namespace emulator
