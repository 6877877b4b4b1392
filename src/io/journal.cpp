// SPDX-License-Identifier: Apache-2.0
#include "io/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "io/journal_format.h"

namespace nightshift::io {
namespace {

using Clock = std::chrono::steady_clock;

// A name that no other process ever used: a restart must not meet the file of its own earlier life.
FileHandle create_unique(const std::string& directory, int rank, FileHeader& header) {
  for (int attempt = 0;; ++attempt) {
    const std::string path =
        fmt::format("{}/rank-{:05}-{:016x}{}", directory, rank, header.nonce, kJournalSuffix);
    try {
      return {path, O_RDWR | O_CREAT | O_EXCL};
    } catch (const Error&) {
      if (::access(path.c_str(), F_OK) != 0 || attempt == 8) throw;
      header = make_file_header(header.job, rank);
    }
  }
}

}  // namespace

struct ResultJournal::Impl {
  Impl(const std::string& directory, int rank, std::uint64_t job, JournalOptions opts)
      : options(opts), header(make_file_header(job, rank)), file(create_unique(directory, rank, header)) {
    file.write_at(0, {reinterpret_cast<const char*>(&header), sizeof header});
    file.sync_data();
    sync_directory(directory);
    end = sizeof header;
    writer = std::thread([this] { run(); });
  }

  // The writer thread: waits until a commit is due, swaps buffers, writes and syncs outside the lock.
  void run() {
    std::vector<char> batch;
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [this] { return stop || !waiting.empty(); });
      if (waiting.empty()) return;
      work.wait_until(lock,
                      first_waiting + std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(options.commit_seconds)),
                      [this] { return stop || flush_wanted || waiting.size() >= options.commit_bytes; });
      batch.clear();
      batch.swap(waiting);
      flush_wanted = false;
      const std::uint64_t records = appended;
      lock.unlock();
      const std::string problem = commit(batch);
      lock.lock();
      if (!problem.empty()) {
        failure = problem;
        waiting.clear();
      } else {
        durable = records;
      }
      done.notify_all();
      if (!failure.empty()) return;
    }
  }

  // Empty when the bytes are on disk. After a failed sync the kernel may have dropped the pages: never
  // retried.
  std::string commit(const std::vector<char>& batch) {
    try {
      file.write_at(end, batch);
      file.sync_data();
      end += batch.size();
      return {};
    } catch (const Error& error) {
      try {
        file.truncate(end);  // best effort: readers cut the torn tail as well
      } catch (const Error&) {
      }
      return error.what();
    }
  }

  void throw_failure() const {
    if (!failure.empty()) {
      throw Error(fmt::format("the journal stopped after {} of {} records: {}", durable, appended, failure),
                  "", Exit::not_stored);
    }
  }

  template <class Record>
  void append(const Record& record) {
    std::unique_lock lock(mutex);
    done.wait(lock, [this] { return waiting.size() < options.max_waiting || !failure.empty(); });
    throw_failure();
    NS_CHECK(!stop, "append to a closed journal");
    const bool first = waiting.empty();
    encode_record(record, header.nonce, waiting);
    ++appended;
    if (first) first_waiting = Clock::now();
    if (first || waiting.size() >= options.commit_bytes) work.notify_one();
  }

  void flush() {
    std::unique_lock lock(mutex);
    const std::uint64_t target = appended;
    flush_wanted = !waiting.empty();
    work.notify_one();
    done.wait(lock, [&] { return durable >= target || !failure.empty(); });
    throw_failure();
  }

  void end_writer() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    work.notify_one();
    if (writer.joinable()) writer.join();
  }

  JournalOptions options;
  FileHeader header;
  FileHandle file;
  std::uint64_t end = 0;  // of what is committed; the writer thread's own

  std::mutex mutex;
  std::condition_variable work, done;
  std::vector<char> waiting;  // encoded records
  Clock::time_point first_waiting;
  std::uint64_t appended = 0, durable = 0;
  bool stop = false, flush_wanted = false;
  std::string failure;
  std::thread writer;
};

ResultJournal::ResultJournal(const std::string& directory, int rank, std::uint64_t job,
                             JournalOptions options)
    : impl_(std::make_unique<Impl>(directory, rank, job, options)) {}

ResultJournal::~ResultJournal() {
  impl_->end_writer();
}

void ResultJournal::append(const ResultRecord& record) {
  impl_->append(record);
}

void ResultJournal::append(const ProgressRecord& record) {
  impl_->append(record);
}

void ResultJournal::flush() {
  impl_->flush();
}

void ResultJournal::close() {
  impl_->end_writer();
  const std::lock_guard lock(impl_->mutex);
  impl_->throw_failure();
  impl_->file.close();
}

std::uint64_t ResultJournal::appended() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->appended;
}

std::uint64_t ResultJournal::durable() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->durable;
}

const std::string& ResultJournal::path() const {
  return impl_->file.path();
}

}  // namespace nightshift::io
