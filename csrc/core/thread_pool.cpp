#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "core/check.h"

namespace llmcore {
namespace {

constexpr auto kSpin = std::chrono::microseconds(60);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

thread_local bool inside_pool = false;

class Pool {
 public:
  explicit Pool(int threads) : size_(threads) {
    workers_.reserve(static_cast<size_t>(threads - 1));
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // There is no room for more threads (memory, a process limit): the ones that started do the work.
    }
  }

  // Ends the workers. The object itself stays: a thread that just looked up the pool may still call run(), which then
  // does all the work itself.
  void retire() {
    std::lock_guard<std::mutex> owner(owner_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& t : workers_) t.join();
    workers_.clear();
  }

  int size() const { return size_; }

  // Returns false if another thread is inside: the caller then runs its work inline.
  bool run(int64_t n, ParallelBody body, void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    body_ = body;
    context_ = context;
    n_ = n;
    next_.store(0, std::memory_order_relaxed);
    pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    drain();
    // Every worker checks in before the next job can overwrite this one.
    for (int spins = 0; pending_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < 10000)
        relax();
      else
        sched_yield();  // more threads than processors
    }
    return true;
  }

 private:
  void drain() {
    inside_pool = true;
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_;) body_(context_, i);
    inside_pool = false;
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      const auto deadline = std::chrono::steady_clock::now() + kSpin;
      while (generation_.load(std::memory_order_acquire) == seen) {
        for (int i = 0; i < 64 && generation_.load(std::memory_order_relaxed) == seen; ++i) relax();
        if (std::chrono::steady_clock::now() > deadline) {
          std::unique_lock<std::mutex> lock(mutex_);
          sleeping_.fetch_add(1);
          wake_.wait(lock, [&] { return generation_.load() != seen; });
          sleeping_.fetch_sub(1);
        }
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      drain();
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int size_;
  std::vector<std::thread> workers_;
  std::mutex owner_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> sleeping_{0}, pending_{0};
  std::atomic<int64_t> next_{0};
  bool stop_ = false;
  ParallelBody body_ = nullptr;
  void* context_ = nullptr;
  int64_t n_ = 0;
};

std::mutex pool_mutex;
std::atomic<Pool*> pool{nullptr};
std::atomic<int> wanted{0};

// In a forked child the workers do not exist: leave the parent's pool alone (its locks may be held) and make a new one
// at the next call.
void forget_pool_in_child() {
  pool.store(nullptr);
  new (&pool_mutex) std::mutex;
  inside_pool = false;
}

Pool& get_pool() {
  Pool* p = pool.load(std::memory_order_acquire);
  if (p) return *p;
  std::lock_guard<std::mutex> lock(pool_mutex);
  p = pool.load();
  if (!p) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    (void)registered;
    p = new Pool(num_threads());  // never destroyed at exit: other static destructors may still run kernels
    pool.store(p, std::memory_order_release);
  }
  return *p;
}

// Returns the cgroup's quota in processors, or 0 if there is no quota.
double cgroup_quota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period) return quota == "max" || period <= 0 ? 0 : std::atof(quota.c_str()) / period;
  std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double value = 0;
  if (q >> value && p >> period && value > 0 && period > 0) return value / period;
  return 0;
}

}  // namespace

int available_cpus() {
  cpu_set_t set;
  int n = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) n = CPU_COUNT(&set);
  const double quota = cgroup_quota();
  if (quota > 0) n = std::min(n, static_cast<int>(std::ceil(quota)));
  return n < 1 ? 1 : n;
}

int num_threads() {
  int n = wanted.load(std::memory_order_relaxed);
  if (n == 0) wanted.store(n = available_cpus());
  return n;
}

void set_num_threads(int n) {
  if (n < 1 || n > 1024) fail("set_num_threads", "1 <= n <= 1024", std::to_string(n));
  std::lock_guard<std::mutex> lock(pool_mutex);
  wanted.store(n);
  Pool* p = pool.load();
  if (p && p->size() != n) {
    pool.store(nullptr);
    p->retire();
  }
}

void parallel_for(int64_t n, ParallelBody body, void* context) {
  if (n > 1 && !inside_pool && num_threads() > 1 && get_pool().run(n, body, context)) return;
  for (int64_t i = 0; i < n; ++i) body(context, i);
}

}  // namespace llmcore
