// Reads NumPy's .npy files: little-endian numbers of one type, in C order.
#pragma once

#include <bit>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace esat::testing {

static_assert(std::endian::native == std::endian::little);

template <class T>
constexpr const char* kNpyType = nullptr;
template <>
inline constexpr const char* kNpyType<float> = "<f4";
template <>
inline constexpr const char* kNpyType<double> = "<f8";
template <>
inline constexpr const char* kNpyType<std::int64_t> = "<i8";
template <>
inline constexpr const char* kNpyType<std::uint8_t> = "|u1";

template <class T>
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<T> values;

  std::int64_t size(std::size_t axis) const { return shape.at(axis); }
};

// std::runtime_error for a file that is missing, cut, or of another type.
template <class T>
Array<T> read_npy(const std::string& path) {
  const auto refuse = [&](const std::string& why) { throw std::runtime_error(path + ": " + why); };
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  // Magic, version 1.0, length of the header, header: a Python dictionary.
  if (bytes.size() < 10 || bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) != 0) refuse("expected a .npy file of version 1.0");
  const std::size_t length = static_cast<std::uint8_t>(bytes[8]) + 256 * static_cast<std::size_t>(static_cast<std::uint8_t>(bytes[9]));
  const std::string header = bytes.substr(10, length);
  if (header.find("'descr': '" + std::string(kNpyType<T>) + "'") == std::string::npos)
    refuse("expected " + std::string(kNpyType<T>) + ", got " + header);
  if (header.find("'fortran_order': False") == std::string::npos) refuse("expected C order, got " + header);
  Array<T> array;
  std::size_t count = 1;
  const std::size_t open = header.find('('), close = header.find(')');
  if (open == std::string::npos || close == std::string::npos) refuse("expected a shape, got " + header);
  for (std::size_t at = open + 1; at < close;) {
    const std::size_t digits = header.find_first_of("0123456789", at);
    if (digits == std::string::npos || digits > close) break;
    array.shape.push_back(std::stoll(header.substr(digits)));
    count *= static_cast<std::size_t>(array.shape.back());
    at = header.find_first_not_of("0123456789", digits);
  }
  if (bytes.size() != 10 + length + count * sizeof(T)) refuse("expected " + std::to_string(count) + " values after " + header);
  array.values.resize(count);
  bytes.copy(reinterpret_cast<char*>(array.values.data()), count * sizeof(T), 10 + length);
  return array;
}

}  // namespace esat::testing
