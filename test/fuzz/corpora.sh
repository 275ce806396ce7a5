# Sourced: corpora.sh NAME sets the array `corpora` to the files and folders that target fuzz_NAME starts from: its own,
# and what unit tests have of the kind.
corpora=(test/fuzz/corpus/"$1")
case $1 in
media) corpora+=(test/cases/media) ;;
torch | zip | model) corpora+=(test/cases/torch) ;;
esac
