// Tests of the emulator itself. emulator_test [NAME]: one test or child, or all tests.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "test.h"

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

static int failures = 0;

void check(bool ok, const char* what, const char* file, int line) {
  if (ok) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
}

cudaStream_t test_stream() {
  static const cudaStream_t stream = [] {
    cudaStream_t s = nullptr;
    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess);
    return s;
  }();
  return stream;
}

Outcome run_child(const char* name, const std::vector<std::pair<const char*, const char*>>& environment) {
  int ends[2];
  if (pipe(ends)) std::abort();
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    for (const auto& [key, value] : environment) setenv(key, value, 1);
    execl("/proc/self/exe", "emulator_test", name, nullptr);
    _exit(127);
  }
  close(ends[1]);
  Outcome outcome{};
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    outcome.output.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  outcome.aborted = WIFSIGNALED(status);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

int main(int argc, char** argv) {
  int ran = 0;
  for (const Case& c : cases()) {
    if (argc > 1 ? std::strcmp(argv[1], c.name) : c.child) continue;
    const int before = failures;
    c.run();
    ++ran;
    if (!c.child) std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", c.name);
  }
  if (!ran) std::fprintf(stderr, "no such test\n");
  return failures || !ran;
}
