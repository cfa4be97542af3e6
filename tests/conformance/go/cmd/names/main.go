// Names prints the exported names of a package, one a line: functions, types, constants and variables by their name,
// methods and fields as Type.Name. It reads the sources in the folder it is given.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: names FOLDER")
		os.Exit(2)
	}
	names, err := exported(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, name := range names {
		fmt.Println(name)
	}
}

func exported(folder string) ([]string, error) {
	sources := func(file fs.FileInfo) bool { return !strings.HasSuffix(file.Name(), "_test.go") }
	packages, err := parser.ParseDir(token.NewFileSet(), folder, sources, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, parsed := range packages {
		for _, file := range parsed.Files {
			for _, declared := range file.Decls {
				names = append(names, declarations(declared)...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func declarations(declared ast.Decl) []string {
	switch declared := declared.(type) {
	case *ast.FuncDecl:
		if owner := receiver(declared); declared.Name.IsExported() && (owner == "" || ast.IsExported(owner)) {
			return []string{joined(owner, declared.Name.Name)}
		}
	case *ast.GenDecl:
		var names []string
		for _, spec := range declared.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					names = append(names, spec.Name.Name)
					names = append(names, members(spec)...)
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() {
						names = append(names, name.Name)
					}
				}
			}
		}
		return names
	}
	return nil
}

// members returns the fields of a struct and the methods of an interface.
func members(spec *ast.TypeSpec) []string {
	var list *ast.FieldList
	switch kind := spec.Type.(type) {
	case *ast.StructType:
		list = kind.Fields
	case *ast.InterfaceType:
		list = kind.Methods
	default:
		return nil
	}
	var names []string
	for _, field := range list.List {
		for _, name := range field.Names {
			if name.IsExported() {
				names = append(names, joined(spec.Name.Name, name.Name))
			}
		}
	}
	return names
}

func receiver(declared *ast.FuncDecl) string {
	if declared.Recv == nil {
		return ""
	}
	kind := declared.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	if name, ok := kind.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

func joined(owner, name string) string {
	if owner == "" {
		return name
	}
	return owner + "." + name
}
