// Something for a compiler to work on for a while.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <thread>
#include <vector>

int main(int argc, char **argv)
{
	std::map<std::string, std::vector<int>> words;
	std::regex pattern(argv[0]);

	for (int i = 0; i < argc; i++)
		words[argv[i]].push_back(i);
	std::thread sorter([&] {
		for (auto &[word, places] : words)
			std::sort(places.begin(), places.end(), std::greater<int>());
	});
	sorter.join();
	std::cout << words.size() << '\n';
	return std::regex_match(argv[0], pattern);
}
