// SPDX-License-Identifier: Apache-2.0
#include "io/hdf5.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "core/check.h"

namespace nightshift::io::h5 {
namespace {

static_assert(sizeof(hid_t) == 8, "HDF5 1.10 or newer");

constexpr std::uint64_t kChunkBytes = 1u << 20;   // a few stripes on a parallel file system, cheap to cache
constexpr std::uint64_t kStringChunk = 1u << 16;  // rows; 16 bytes each in the chunk, the text lies in heaps
constexpr std::size_t kLargestChunkCache =
    256u << 20;  // so that a compressed chunk is unpacked once, not per read
constexpr std::uint64_t kLargestChunk = 1u << 30;
constexpr std::size_t kLongestFixedString = 64u << 20;
constexpr std::uint64_t kStringPiece = 1024;  // rows per call: bounds what HDF5 allocates beside our copy

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

// Holds the library and keeps HDF5 from printing its error stack (the setting is per thread in a threadsafe
// build).
struct Library {
  std::lock_guard<std::recursive_mutex> lock{library_mutex()};
  Library() {
    // No clean-up at exit: where a close has failed (disk full), HDF5 1.10 crashes in it, and all files of
    // ours are closed by then. Has to come before any other call.
    static const herr_t no_exit_handler = H5dont_atexit();
    static_cast<void>(no_exit_handler);
    thread_local bool silenced = false;
    if (!silenced) silenced = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  }
};

// The innermost entry of HDF5's error stack says most: "file signature not found", "No space left on device".
std::string library_message() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
        if (n == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "no details from HDF5" : "HDF5: " + text;
}

[[noreturn]] void fail(const char* action, const std::string& file, const std::string& name = {}) {
  const std::string message = library_message();
  H5Eclear2(H5E_DEFAULT);
  throw Error(fmt::format("cannot {} {}{}{}: {}", action, name, name.empty() ? "" : " of ", file, message),
              message.find("No space left") != std::string::npos ? "free some space and start again" : "");
}

hid_t check(hid_t status, const char* action, const std::string& file, const std::string& name = {}) {
  if (status < 0) fail(action, file, name);
  return status;
}

class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ < 0) return;
    Library library;
    close_(id_);
  }
  hid_t get() const { return id_; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

template <class T>
hid_t native_type() {
  if constexpr (std::is_same_v<T, std::int8_t>) return H5T_NATIVE_INT8;
  if constexpr (std::is_same_v<T, std::uint8_t>) return H5T_NATIVE_UINT8;
  if constexpr (std::is_same_v<T, std::int32_t>) return H5T_NATIVE_INT32;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5T_NATIVE_INT64;
  if constexpr (std::is_same_v<T, std::uint64_t>) return H5T_NATIVE_UINT64;
  if constexpr (std::is_same_v<T, float>) return H5T_NATIVE_FLOAT;
  if constexpr (std::is_same_v<T, double>) return H5T_NATIVE_DOUBLE;
}

Handle variable_string() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

Handle finish_reason_type() {
  Handle type(H5Tenum_create(H5T_STD_U8LE), H5Tclose);
  constexpr std::array names{"stop", "length", "failed", "cancelled", "repetition"};  // FinishReason 1 ..
  for (std::uint8_t value = 1; value <= names.size(); ++value) {
    H5Tenum_insert(type.get(), names[value - 1u], &value);
  }
  return type;
}

Handle stored_type(Store store) {
  switch (store) {
    case Store::int8:
      return {H5Tcopy(H5T_STD_I8LE), H5Tclose};
    case Store::int32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case Store::int64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case Store::uint64:
      return {H5Tcopy(H5T_STD_U64LE), H5Tclose};
    case Store::float32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case Store::float64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case Store::string:
      return variable_string();
    case Store::finish_reason:
      return finish_reason_type();
  }
  return {};
}

std::string describe_string(hid_t type, bool variable, std::size_t bytes) {
  const char* cset = H5Tget_cset(type) == H5T_CSET_UTF8 ? "UTF-8" : "ASCII";
  return variable ? fmt::format("string (variable, {})", cset)
                  : fmt::format("string ({} bytes, {})", bytes, cset);
}

std::string describe_enum(hid_t type) {
  std::string text = "enum (";
  const int members = H5Tget_nmembers(type);
  for (int i = 0; i < members && i < 16; ++i) {
    char* name = H5Tget_member_name(type, static_cast<unsigned>(i));
    text += fmt::format("{}{}", i > 0 ? ", " : "", name != nullptr ? name : "?");
    H5free_memory(name);
  }
  return text + ")";
}

void describe_type(hid_t type, DatasetInfo& info) {
  const H5T_class_t type_class = H5Tget_class(type);
  info.type_bytes = H5Tget_size(type);
  if (type_class == H5T_INTEGER) {
    info.type = TypeClass::integer;
    info.is_signed = H5Tget_sign(type) == H5T_SGN_2;
    info.type_name = fmt::format("{}int{}", info.is_signed ? "" : "u", info.type_bytes * 8);
  } else if (type_class == H5T_FLOAT) {
    info.type = TypeClass::floating;
    info.type_name = fmt::format("float{}", info.type_bytes * 8);
  } else if (type_class == H5T_STRING) {
    info.type = TypeClass::string;
    info.variable = H5Tis_variable_str(type) > 0;
    info.type_name = describe_string(type, info.variable, info.type_bytes);
  } else if (type_class == H5T_ENUM) {
    info.type = TypeClass::enumeration;
    info.type_name = describe_enum(type);
  } else {
    info.type_name = "an unsupported type";
  }
}

void describe_layout(hid_t dataset, DatasetInfo& info) {
  const Handle plist(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(plist.get()) == H5D_CHUNKED) {
    std::vector<hsize_t> chunk(std::max<std::size_t>(info.shape.size(), 1));
    const int rank = H5Pget_chunk(plist.get(), static_cast<int>(chunk.size()), chunk.data());
    info.chunk.assign(chunk.begin(), chunk.begin() + std::max(rank, 0));
  }
  const int filters = H5Pget_nfilters(plist.get());
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    char name[64] = "?";
    H5Pget_filter2(plist.get(), static_cast<unsigned>(i), &flags, &values, nullptr, sizeof name, name,
                   nullptr);
    info.filters += (i > 0 ? ", " : "") + std::string(name);
  }
  info.stored_bytes = H5Dget_storage_size(dataset);
}

DatasetInfo describe(hid_t dataset, hid_t type, const std::string& file, const std::string& name) {
  DatasetInfo info;
  describe_type(type, info);
  const Handle space(check(H5Dget_space(dataset), "read the shape", file, name), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space.get());
  std::vector<hsize_t> shape(static_cast<std::size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(space.get(), shape.data(), nullptr);
  info.shape.assign(shape.begin(), shape.end());
  describe_layout(dataset, info);
  return info;
}

// Bytes of one chunk; more than 2^31 count as 2^60 at most.
std::uint64_t chunk_bytes(const DatasetInfo& info) {
  std::uint64_t bytes = info.type_bytes;
  for (const std::uint64_t extent : info.chunk)
    bytes = std::min<std::uint64_t>(bytes, 1u << 30) * std::min<std::uint64_t>(extent, 1u << 30);
  return bytes;
}

// A chunk that does not fit the cache would be read and unpacked again for every piece of it. Columns are
// read and written from front to back, so that there is no use for a second one.
Handle access_plist(const DatasetInfo& info) {
  const std::uint64_t bytes = chunk_bytes(info);
  Handle plist(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  const std::size_t cache = std::clamp<std::uint64_t>(bytes, kChunkBytes, kLargestChunkCache);
  H5Pset_chunk_cache(plist.get(), 521, cache, 1.0);  // 1.0: drop fully read or written chunks first
  return plist;
}

std::string fixed_string(const char* bytes, std::size_t size, H5T_str_t pad) {
  std::size_t length = size;
  if (pad == H5T_STR_NULLTERM) return {bytes, ::strnlen(bytes, size)};
  const char filler = pad == H5T_STR_SPACEPAD ? ' ' : '\0';
  while (length > 0 && bytes[length - 1] == filler) --length;
  return {bytes, length};
}

}  // namespace

struct Dataset::Ids {
  Handle dataset, type;
};
struct File::Ids {
  Handle file;
};

namespace {

// Selects rows first .. first + count - 1 with all their columns; gives {file space, memory space}.
std::pair<Handle, Handle> select_rows(hid_t dataset, const DatasetInfo& info, std::uint64_t first,
                                      std::uint64_t count) {
  std::vector<hsize_t> start(info.shape.size(), 0), extent(info.shape.begin(), info.shape.end());
  start[0] = first;
  extent[0] = count;
  Handle file_space(H5Dget_space(dataset), H5Sclose);
  H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr);
  Handle memory_space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
  return {std::move(file_space), std::move(memory_space)};
}

}  // namespace

template <class T>
void Dataset::read(std::uint64_t first, std::uint64_t count, T* out) const {
  NS_CHECK(!info_.shape.empty() && first <= rows() && count <= rows() - first, "{}: rows {}+{} of {}", name_,
           first, count, rows());
  if (count == 0) return;
  Library library;
  const auto [file_space, memory_space] = select_rows(ids_->dataset.get(), info_, first, count);
  check(
      H5Dread(ids_->dataset.get(), native_type<T>(), memory_space.get(), file_space.get(), H5P_DEFAULT, out),
      "read", file_, name_);
}

std::vector<std::string> Dataset::read_strings(std::uint64_t first, std::uint64_t count) const {
  NS_CHECK(info_.is_column() && first <= rows() && count <= rows() - first, "{}: rows {}+{} of {}", name_,
           first, count, rows());
  std::vector<std::string> out;
  out.reserve(count);
  const std::uint64_t piece =
      info_.variable ? kStringPiece
                     : std::clamp<std::uint64_t>(kLongestFixedString / info_.type_bytes, 1, kStringPiece);
  for (std::uint64_t done = 0; done < count; done += piece) {
    Library library;  // per piece, so that other threads get their turn
    const std::uint64_t n = std::min(piece, count - done);
    const auto [file_space, memory_space] = select_rows(ids_->dataset.get(), info_, first + done, n);
    const hid_t dataset = ids_->dataset.get();
    if (info_.variable) {
      Handle type(check(H5Tcopy(ids_->type.get()), "read", file_, name_), H5Tclose);
      std::vector<char*> pointers(n, nullptr);
      check(H5Dread(dataset, type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT, pointers.data()),
            "read", file_, name_);
      for (const char* text : pointers) out.emplace_back(text != nullptr ? text : "");
      H5Dvlen_reclaim(type.get(), memory_space.get(), H5P_DEFAULT, pointers.data());
    } else {
      std::vector<char> bytes(n * info_.type_bytes);
      check(
          H5Dread(dataset, ids_->type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT, bytes.data()),
          "read", file_, name_);
      const H5T_str_t pad = H5Tget_strpad(ids_->type.get());
      for (std::uint64_t i = 0; i < n; ++i) {
        out.push_back(fixed_string(bytes.data() + i * info_.type_bytes, info_.type_bytes, pad));
      }
    }
  }
  return out;
}

void Dataset::extend(std::uint64_t new_rows) {
  Library library;
  std::vector<hsize_t> shape(info_.shape.begin(), info_.shape.end());
  shape[0] = new_rows;
  check(H5Dset_extent(ids_->dataset.get(), shape.data()), "extend", file_, name_);
  info_.shape[0] = new_rows;
}

template <class T>
void Dataset::append(std::span<const T> values) {
  const std::uint64_t width = info_.shape.size() > 1 ? info_.shape[1] : 1;
  if (values.empty()) return;
  const std::uint64_t first = rows(), count = values.size() / width;
  Library library;
  extend(first + count);
  const auto [file_space, memory_space] = select_rows(ids_->dataset.get(), info_, first, count);
  // An enum column is written as its own type: HDF5 does not convert integers to enums.
  const hid_t memory = info_.type == TypeClass::enumeration ? ids_->type.get() : native_type<T>();
  check(
      H5Dwrite(ids_->dataset.get(), memory, memory_space.get(), file_space.get(), H5P_DEFAULT, values.data()),
      "write", file_, name_);
}

void Dataset::append_strings(std::span<const std::string> values) {
  if (values.empty()) return;
  Library library;
  const std::uint64_t first = rows();
  extend(first + values.size());
  std::vector<const char*> pointers;
  pointers.reserve(values.size());
  for (const std::string& value : values) pointers.push_back(value.c_str());
  const auto [file_space, memory_space] = select_rows(ids_->dataset.get(), info_, first, values.size());
  check(H5Dwrite(ids_->dataset.get(), ids_->type.get(), memory_space.get(), file_space.get(), H5P_DEFAULT,
                 pointers.data()),
        "write", file_, name_);
}

template void Dataset::read(std::uint64_t, std::uint64_t, std::uint8_t*) const;
template void Dataset::read(std::uint64_t, std::uint64_t, std::int32_t*) const;
template void Dataset::read(std::uint64_t, std::uint64_t, std::int64_t*) const;
template void Dataset::read(std::uint64_t, std::uint64_t, std::uint64_t*) const;
template void Dataset::read(std::uint64_t, std::uint64_t, float*) const;
template void Dataset::read(std::uint64_t, std::uint64_t, double*) const;
template void Dataset::append(std::span<const std::int8_t>);
template void Dataset::append(std::span<const std::uint8_t>);
template void Dataset::append(std::span<const std::int32_t>);
template void Dataset::append(std::span<const std::int64_t>);
template void Dataset::append(std::span<const std::uint64_t>);
template void Dataset::append(std::span<const float>);
template void Dataset::append(std::span<const double>);

File File::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw BadInput(fmt::format("cannot open {}: {}", path, std::strerror(errno)));
  ::close(fd);
  Library library;
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access.get(), false,
                      true);  // read-only mounts and parallel file systems often have no locks
#endif
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0) {
    const std::string message = library_message();
    H5Eclear2(H5E_DEFAULT);
    throw BadInput(fmt::format("{} is not a readable HDF5 file ({})", path, message),
                   "check that it was copied whole and closed by its writer");
  }
  File file;
  file.path_ = path;
  file.ids_ = std::make_shared<Ids>(Ids{Handle(id, H5Fclose)});
  return file;
}

File File::create(const std::string& path) {
  Library library;
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_SEMI);  // a dataset left open must not delay the last write
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_LATEST);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access.get(), false, true);
#endif
  File file;
  file.path_ = path;
  Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);  // equal content gives equal bytes
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  file.ids_ = std::make_shared<Ids>(Ids{Handle(check(id, "create", path), H5Fclose)});
  return file;
}

bool File::has(const std::string& name) const {
  Library library;
  // Every link on the way has to be asked for: H5Lexists fails on a path whose parent is missing.
  for (std::size_t slash = name.find('/', 1);; slash = name.find('/', slash + 1)) {
    if (H5Lexists(ids_->file.get(), name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
    if (slash == std::string::npos) return H5Oexists_by_name(ids_->file.get(), name.c_str(), H5P_DEFAULT) > 0;
  }
}

bool File::is_group(const std::string& name) const {
  Library library;
  if (name != "/" && !has(name)) return false;
  const Handle object(H5Oopen(ids_->file.get(), name.c_str(), H5P_DEFAULT), H5Oclose);
  return object.get() >= 0 && H5Iget_type(object.get()) == H5I_GROUP;
}

Dataset File::dataset(const std::string& name) const {
  Library library;
  Dataset out;
  out.file_ = path_;
  out.name_ = name;
  Handle probe(check(H5Dopen2(ids_->file.get(), name.c_str(), H5P_DEFAULT), "open", path_, name), H5Dclose);
  Handle type(check(H5Dget_type(probe.get()), "read the type", path_, name), H5Tclose);
  out.info_ = describe(probe.get(), type.get(), path_, name);
  if (out.info_.type == TypeClass::string && !out.info_.variable &&
      (out.info_.type_bytes == 0 || out.info_.type_bytes > kLongestFixedString)) {
    throw BadInput(fmt::format("{}: {} has strings of {} bytes each", path_, name, out.info_.type_bytes),
                   "use variable-length strings");
  }
  if (chunk_bytes(out.info_) > kLargestChunk) {
    throw BadInput(
        fmt::format("{}: {} has chunks of more than 1 GiB, which are read as a whole", path_, name),
        "write it with smaller chunks");
  }
  const Handle access = access_plist(out.info_);
  probe = Handle();  // the cache size is fixed by the first open of a dataset
  Handle dataset(check(H5Dopen2(ids_->file.get(), name.c_str(), access.get()), "open", path_, name),
                 H5Dclose);
  out.ids_ = std::make_shared<Dataset::Ids>(Dataset::Ids{std::move(dataset), std::move(type)});
  return out;
}

void File::check_extent(const Dataset& data) const {
  constexpr std::uint64_t kRowsPerByte = 1100;  // deflate packs 1,032 bytes into one at best
  const std::uint64_t bytes = std::filesystem::file_size(path_);
  if (data.rows() / kRowsPerByte <= bytes) return;
  throw BadInput(
      fmt::format("{}: {} claims {} rows in a file of {} bytes", path_, data.name(), data.rows(), bytes),
      "the file is damaged, or the column was made and never written");
}

void File::create_group(const std::string& name) {
  if (name.empty() || has(name)) return;
  create_group(name.substr(0, name.rfind('/')));
  const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  const hid_t id = H5Gcreate2(ids_->file.get(), name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT);
  const Handle group(check(id, "create", path_, name), H5Gclose);
}

Dataset File::create(const std::string& name, const ColumnSpec& spec) {
  Library library;
  Handle type = stored_type(spec.store);
  create_group(name.substr(0, name.rfind('/')));
  std::vector<hsize_t> shape{spec.rows}, limit{H5S_UNLIMITED}, chunk{kStringChunk};
  const std::size_t element = H5Tget_size(type.get());
  if (spec.store != Store::string)
    chunk[0] = std::max<std::uint64_t>(kChunkBytes / element / std::max<std::uint64_t>(spec.width, 1), 1);
  if (spec.first > 0) chunk[0] = std::min<std::uint64_t>(chunk[0], spec.first);
  if (spec.width > 0) {
    shape.push_back(spec.width);
    limit.push_back(spec.width);
    chunk.push_back(spec.width);
  }
  Handle layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(layout.get(), false);  // equal columns give equal bytes
  H5Pset_chunk(layout.get(), static_cast<int>(chunk.size()), chunk.data());
  if (spec.fill) H5Pset_fill_value(layout.get(), H5T_NATIVE_DOUBLE, &*spec.fill);
  if (spec.deflate > 0 && spec.store != Store::string) {
    H5Pset_shuffle(layout.get());
    H5Pset_deflate(layout.get(), static_cast<unsigned>(spec.deflate));
  }
  Handle space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), limit.data()), H5Sclose);
  DatasetInfo cached;
  cached.type_bytes = element;
  cached.chunk.assign(chunk.begin(), chunk.end());
  const Handle access = access_plist(cached);
  const hid_t id = H5Dcreate2(ids_->file.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT,
                              layout.get(), access.get());
  Dataset out;
  out.file_ = path_;
  out.name_ = name;
  out.ids_ = std::make_shared<Dataset::Ids>(
      Dataset::Ids{Handle(check(id, "create", path_, name), H5Dclose), std::move(type)});
  out.info_ = describe(id, out.ids_->type.get(), path_, name);
  return out;
}

namespace {

std::string read_text_attribute(hid_t id, hid_t type) {
  if (H5Tis_variable_str(type) > 0) {
    char* text = nullptr;
    if (H5Aread(id, type, &text) < 0 || text == nullptr) return {};
    std::string out = text;
    H5free_memory(text);
    return out;
  }
  std::vector<char> bytes(H5Aget_storage_size(id));
  if (bytes.empty() || bytes.size() > kLongestFixedString || H5Aread(id, type, bytes.data()) < 0) return {};
  return fixed_string(bytes.data(), bytes.size(), H5Tget_strpad(type));
}

std::string attribute_text(hid_t id) {
  const Handle type(H5Aget_type(id), H5Tclose), space(H5Aget_space(id), H5Sclose);
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  const H5T_class_t type_class = H5Tget_class(type.get());
  if (type_class == H5T_STRING && count == 1) return read_text_attribute(id, type.get());
  const bool integer = type_class == H5T_INTEGER || type_class == H5T_ENUM;
  if (count < 1 || count > 64 || (!integer && type_class != H5T_FLOAT))
    return fmt::format("({} values)", count);
  std::vector<double> values(static_cast<std::size_t>(count));
  if (H5Aread(id, H5T_NATIVE_DOUBLE, values.data()) < 0) return "(unreadable)";
  return count == 1 ? fmt::format("{}", values[0]) : fmt::format("[{}]", fmt::join(values, ", "));
}

}  // namespace

std::vector<std::pair<std::string, std::string>> File::attributes(const std::string& object) const {
  Library library;
  const Handle owner(check(H5Oopen(ids_->file.get(), object.c_str(), H5P_DEFAULT), "open", path_, object),
                     H5Oclose);
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  check(H5Aiterate2(owner.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names), "list attributes",
        path_, object);
  std::vector<std::pair<std::string, std::string>> out;
  for (const std::string& name : names) {
    const Handle id(
        check(H5Aopen(owner.get(), name.c_str(), H5P_DEFAULT), "read an attribute", path_, object), H5Aclose);
    out.emplace_back(name, attribute_text(id.get()));
  }
  return out;
}

std::optional<std::string> File::attribute(const std::string& object, const std::string& name) const {
  for (auto& [key, value] : attributes(object)) {
    if (key == name) return value;
  }
  return std::nullopt;
}

// Variable-length, so that the text lies in the heap and may exceed the 64 KiB of an object header.
void File::set_attribute(const std::string& object, const std::string& name, std::string_view text) {
  Library library;
  const Handle owner(check(H5Oopen(ids_->file.get(), object.c_str(), H5P_DEFAULT), "open", path_, object),
                     H5Oclose);
  const Handle type = variable_string(), space(H5Screate(H5S_SCALAR), H5Sclose);
  const hid_t id = H5Acreate2(owner.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT);
  const Handle attribute(check(id, "create an attribute", path_, object), H5Aclose);
  const std::string value(text);
  const char* pointer = value.c_str();
  check(H5Awrite(attribute.get(), type.get(), &pointer), "write an attribute", path_, object);
}

std::vector<std::string> File::children(const std::string& group) const {
  Library library;
  std::vector<std::string> names;
  if (!is_group(group)) return names;
  const Handle id(check(H5Gopen2(ids_->file.get(), group.c_str(), H5P_DEFAULT), "open", path_, group),
                  H5Gclose);
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  check(H5Literate(id.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names), "list", path_, group);
  std::sort(names.begin(), names.end());
  return names;
}

void File::close() {
  if (!ids_) return;
  Library library;
  Handle file = std::move(ids_->file);
  ids_.reset();
  check(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), "flush", path_);
  check(H5Fclose(file.release()), "close", path_);
}

}  // namespace nightshift::io::h5
