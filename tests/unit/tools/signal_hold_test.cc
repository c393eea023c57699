// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/signal_hold.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <thread>

namespace tools {
namespace {

int caught = 0;

class SignalHoldTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    caught = 0;
    ASSERT_EQ(pipe(pipe_), 0);
    std::signal(GetParam(), [](int number) { caught = number; });
  }
  void TearDown() override {
    std::signal(GetParam(), SIG_DFL);
    close(pipe_[0]);
    close(pipe_[1]);
  }

  int pipe_[2] = {-1, -1};
};

TEST_P(SignalHoldTest, TakesEffectAtTheEnd) {
  {
    const SignalHold hold;
    EXPECT_FALSE(hold.pending());
    raise(GetParam());
    EXPECT_TRUE(hold.pending());
    EXPECT_EQ(caught, 0);
  }
  EXPECT_EQ(caught, GetParam());
}

TEST_P(SignalHoldTest, EndsAWait) {
  {
    const SignalHold hold;
    std::thread sender([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      kill(getpid(), GetParam());
    });
    EXPECT_FALSE(hold.wait_readable(pipe_[0]));
    EXPECT_TRUE(hold.pending());
    sender.join();
  }
  EXPECT_EQ(caught, GetParam());
}

TEST_P(SignalHoldTest, InputEndsAWait) {
  const SignalHold hold;
  ASSERT_EQ(write(pipe_[1], "x", 1), 1);
  EXPECT_TRUE(hold.wait_readable(pipe_[0]));
  EXPECT_FALSE(hold.pending());
}

TEST_P(SignalHoldTest, AClosedPipeEndsAWait) {
  const SignalHold hold;
  close(pipe_[1]);
  EXPECT_TRUE(hold.wait_readable(pipe_[0]));
  pipe_[1] = dup(pipe_[0]);
}

TEST(SignalHold, WhoeverStopsReadingEndsNothingInBetween) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  caught = 0;
  std::signal(SIGPIPE, [](int number) { caught = number; });
  {
    const SignalHold hold;
    EXPECT_EQ(write(ends[1], "x", 1), -1);
    EXPECT_EQ(errno, EPIPE);
    EXPECT_FALSE(hold.pending());
    EXPECT_EQ(caught, 0);
  }
  EXPECT_EQ(caught, SIGPIPE);
  std::signal(SIGPIPE, SIG_DFL);
  close(ends[1]);
}

INSTANTIATE_TEST_SUITE_P(Signals, SignalHoldTest, testing::Values(SIGINT, SIGTERM, SIGHUP));

}  // namespace
}  // namespace tools
