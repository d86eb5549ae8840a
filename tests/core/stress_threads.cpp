// The thread pool and the allocator under all that may happen at once: work from several threads, work inside work, a
// pool that is resized, forks. A program of its own for ThreadSanitizer (.ci/run); exit status 1 for a wrong sum.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "core/allocator.h"
#include "core/thread_pool.h"

// A forked child starts threads, which ThreadSanitizer refuses unless it is told.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() { return "die_after_fork=0"; }

namespace {

std::atomic<int> failures{0}, stuck{0};

template <class F>
void parallel(int64_t n, F body) {
  llmcore::parallel_for(n, [](void* f, int64_t i) { (*static_cast<F*>(f))(i); }, &body);
}

// Writes without atomics: the pool must order them before what follows the call.
void work(int64_t n) {
  auto* cells = static_cast<int64_t*>(llmcore::allocate(static_cast<size_t>(n) * sizeof(int64_t)));
  std::memset(cells, 0, static_cast<size_t>(n) * sizeof(int64_t));
  parallel(n, [&](int64_t i) {
    int64_t inner[4] = {};
    parallel(4, [&](int64_t j) { inner[j] = i; });
    cells[i] = (inner[0] + inner[1] + inner[2] + inner[3]) / 4;
  });
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += cells[i];
  if (sum != n * (n - 1) / 2) ++failures;
  llmcore::deallocate(cells, static_cast<size_t>(n) * sizeof(int64_t));
}

// ThreadSanitizer has locks of its own, and one that another thread holds during a fork stays locked in the child
// (internal_allocator_cache_mu, where the child then starts its threads): about one child in a thousand never ends. A
// child of ours that hangs would do so more often than kStuck times.
constexpr int kSeconds = 10, kStuck = 2;

void fork_and_work() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(kSeconds);
    work(100);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = 1;
  if (child < 0 || waitpid(child, &status, 0) != child) ++failures;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
    ++stuck;
  } else if (status != 0) {
    ++failures;
  }
}

}  // namespace

int main() {
  llmcore::set_num_threads(4);
  for (int i = 0; i < 20; ++i) {  // alone: the parent's pool must survive, the child make its own
    work(1000);
    fork_and_work();
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int i = 0; i < 300; ++i) {
        work(1 + (i * 37 + t) % 500);
        if (t == 0 && i % 60 == 30) fork_and_work();
        if (i % 50 == t) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the pool falls asleep
      }
    });
  threads.emplace_back([] {
    for (int i = 0; i < 60; ++i) llmcore::set_num_threads(1 + i % 5);
  });
  threads.emplace_back([] {
    for (int i = 0; i < 50; ++i) llmcore::release_cached_memory();
  });
  for (auto& t : threads) t.join();
  std::printf("%d failures, %d children stuck\n", failures.load(), stuck.load());
  return failures == 0 && stuck <= kStuck ? 0 : 1;
}
